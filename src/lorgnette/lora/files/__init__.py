"""Adapter files: our own folders, PEFT, loralib and kohya formats, and the fingerprint of a base."""
