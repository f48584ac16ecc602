"""Names of BasicSR, as upstream's MambaIR uses them."""
