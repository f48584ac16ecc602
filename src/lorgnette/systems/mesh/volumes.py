"""Volumes from NIfTI files: values and where they lie in space."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_VOXELS = 2**30


class Volume(NamedTuple):
    """(X, Y, Z) values, and (4, 4) from voxels to millimetres."""

    values: NDArray[Any]
    affine: NDArray[np.float64]


def read_volume(path: Path) -> Volume:
    """The volume of a NIfTI file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a NIfTI file, not three-dimensional, too large, or damaged.
    """
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
    except ImportError:
        raise ValueError("volumes need the package nibabel: pip install 'lorgnette[mesh]'") from None
    if not path.is_file():
        raise FileNotFoundError(f"no such volume: {path}")
    try:
        image: Any = nibabel.load(path)
        shape, affine = image.shape, np.asarray(image.affine, np.float64)
        if len(shape) != 3 or np.prod([float(n) for n in shape]) > MAX_VOXELS:
            raise ValueError(f"{path} has shape {shape}; three dimensions of at most {MAX_VOXELS} voxels are read")
        return Volume(np.asanyarray(image.dataobj), affine)
    except (OSError, EOFError, ImageFileError) as error:
        raise ValueError(f"{path} is damaged or no NIfTI file ({str(error).splitlines()[0]})") from None


def label_names(path: Path) -> dict[int, str]:
    """Label -> name, from the table that TotalSegmentator and 3D Slicer write into a file's header, if any."""
    from xml.etree import ElementTree

    import nibabel

    image: Any = nibabel.load(path)
    for extension in image.header.extensions:
        try:
            labels = ElementTree.fromstring(extension.text).iter("Label")
            return {int(each.attrib["Key"]): str(each.text) for each in labels}
        except (ElementTree.ParseError, AttributeError, KeyError, ValueError):
            continue
    return {}
