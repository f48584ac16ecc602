"""Organs as meshes: from a mask to a watertight surface in millimetres."""
