"""NIfTI files: what nibabel reads, after a look at whether the header can be true."""

from __future__ import annotations

import gzip
import html
import re
from pathlib import Path
from typing import Any

import numpy as np

from lorgnette.systems.mesh.volumes.labels import MOST_BYTES, MOST_VOXELS, Volume, canonical

SUFFIXES = (".nii", ".nii.gz")
_MOST_GZIP = 1040  # times smaller than its content; DEFLATE cannot do more
_LABEL = re.compile(
    r'<Label\s+Key="(\d+)"\s+Red="([\d.]+)"\s+Green="([\d.]+)"\s+Blue="([\d.]+)"[^>]*>(?:<!\[CDATA\[)?(.*?)(?:\]\]>)?</Label>'
)


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def stem(path: Path) -> str:
    """A file's name without .nii or .nii.gz."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def read_nifti(path: Path) -> Volume:
    """A volume, with its axes turned to RAS.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no NIfTI file, is cut short, or says what cannot be.
    """
    return _read(path)[0]


def read_nifti_labels(
    path: Path, most: int = MOST_VOXELS
) -> tuple[Volume, dict[int, str], dict[int, tuple[int, int, int]]]:
    """A volume, with the names and colours of labels that its header holds (as TotalSegmentator writes them)."""
    volume, extensions = _read(path, most)
    names, colors = {}, {}
    for text in extensions:
        for key, red, green, blue, name in _LABEL.findall(text):
            names[int(key)] = html.unescape(name.strip())
            r, g, b = (min(255, round(255 * float(part))) for part in (red, green, blue))
            colors[int(key)] = (r, g, b)
    return volume, names, colors


def _read(path: Path, most: int = MOST_VOXELS) -> tuple[Volume, list[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
        from nibabel.spatialimages import HeaderDataError
    except ImportError:
        raise ValueError(f"{path}: reading NIfTI needs nibabel: pip install 'lorgnette[mesh]'") from None
    try:
        image: Any = nibabel.load(path)  # type: ignore[attr-defined]
        header = image.header
        _check_size(path, header, most)
        if path.name.lower().endswith(".gz"):
            _check_stream(path, header)
        values = np.asanyarray(image.dataobj)
    except (ImageFileError, HeaderDataError, EOFError, OSError, ArithmeticError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no whole NIfTI file ({' '.join(str(error).split())[:200]})") from None
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is no whole NIfTI file ({' '.join(str(error).split())[:200]})") from None
    except Exception as error:  # zlib.error and what the header's parser raises have no common class
        if type(error).__module__ not in ("zlib", "gzip"):
            raise
        raise ValueError(f"{path} is damaged ({error})") from None
    volume = canonical(values, image.affine, path)
    notes = ()
    if not (header["sform_code"] or header["qform_code"]):
        notes = (f"{path.name} does not say how the patient lies: left and right are as NIfTI assumes",)
    contents = [extension.get_content() for extension in header.extensions]
    texts = [content.decode("utf-8", "replace") for content in contents if isinstance(content, bytes)]
    return Volume(volume.values, volume.affine, notes), texts


def _check_stream(path: Path, header: Any) -> None:
    """Read a compressed file to its end: nibabel stops before the checksum, and does not see that it is damaged."""
    most = int(np.prod(header.get_data_shape(), dtype=float)) * header.get_data_dtype().itemsize + 2**24
    with gzip.open(path) as file:
        while part := file.read(2**22):
            most -= len(part)
            if most < 0:
                raise ValueError(f"{path} unpacks to more than its header says: made up")


def _check_size(path: Path, header: Any, most: int) -> None:
    """Refuse a header that asks for more than a file of that size can hold, before memory is taken."""
    voxels = 1
    for side in header.get_data_shape():
        voxels *= max(int(side), 0)
    if voxels > most:
        raise ValueError(f"{path} says it has {voxels:,} voxels: up to {most:,} are read")
    if header.get_data_dtype().kind not in "iuf":
        raise ValueError(f"{path}: its voxels are {header.get_data_dtype()}: whole numbers or floats are read")
    size = path.stat().st_size * (_MOST_GZIP if path.name.lower().endswith(".gz") else 1)
    needed = voxels * header.get_data_dtype().itemsize
    if needed > MOST_BYTES:
        gigabytes = f"{needed / 1e9:.1f} GB of {header.get_data_dtype()}"
        raise ValueError(
            f"{path} says it has {gigabytes}: up to {MOST_BYTES / 1e9:.1f} GB are read; uint8 or uint16 hold labels"
        )
    if needed > size + 2**16 or float(header["vox_offset"]) > 2**24:
        raise ValueError(
            f"{path} is too small for the {voxels:,} voxels that its header promises: cut short or made up"
        )
