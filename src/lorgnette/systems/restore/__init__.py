"""MambaIR."""
