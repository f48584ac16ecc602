"""Blocks used by two rooms or more."""
