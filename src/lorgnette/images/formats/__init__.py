"""Formats of picture files that Pillow does not read or write in full."""
