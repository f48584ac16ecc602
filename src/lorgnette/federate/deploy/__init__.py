"""A federation on several machines: its folder, its keys, the operator's board."""
