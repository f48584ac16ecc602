"""Volumes and their masks, in the patient's axes: NIfTI, folders of masks, DICOM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy

if TYPE_CHECKING:
    from lorgnette.systems.mesh.volumes.labels import Labels as Labels, Organ as Organ, Volume as Volume
    from lorgnette.systems.mesh.volumes.read import read_image as read_image, read_labels as read_labels
    from lorgnette.systems.mesh.volumes.totalsegmentator import Subject as Subject, subjects as subjects

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
