"""What goes wrong with picture files."""

from __future__ import annotations


class ImageError(ValueError):
    """An image file that cannot be read or written; one line that names the file and what would work."""


class ImageWarning(UserWarning):
    """Something of a picture that is left out; one line that names the file and what it is."""
