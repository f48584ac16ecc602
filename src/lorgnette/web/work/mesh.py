"""The organs of a mask as meshes: by the functions of `lorgnette mesh`, so that the files are the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorgnette.web.work.wardrobe import Wardrobe
    from lorgnette.web.worker import Tell

VIEW = "preview.html"


def run(source: Path, settings: dict[str, Any], wardrobe: Wardrobe, tell: Tell) -> dict[str, Any]:
    """Do it; see `lorgnette.web.worker`.

    Args:
        source: the mask.
        settings: those of `Surface`; `only`, names or numbers of organs, `format`, and whether there is a `preview`.
        wardrobe: its limits count.
        tell: what is done so far.
    """
    from lorgnette.systems.mesh.files import write_meshes
    from lorgnette.systems.mesh.report import facts, rows
    from lorgnette.systems.mesh.surface import surfaces
    from lorgnette.systems.mesh.surface.settings import Surface
    from lorgnette.systems.mesh.viewer import write_viewer
    from lorgnette.systems.mesh.volumes import read_labels

    surface = Surface(**{name: settings[name] for name in ("shared_walls", "largest", "error", "triangles")})
    labels = read_labels(source, only=settings["only"], most=wardrobe.limits.voxels)
    meshes = list(surfaces(labels, surface, tell.through))
    name = source.name.lower().removesuffix(".gz").removesuffix(".nii").removesuffix(".dcm")
    target = source.parents[1] / f"{source.name[: len(name)]}.{settings['format']}"
    write_meshes(target, meshes)
    if settings["preview"]:
        write_viewer(target.parent / VIEW, name, meshes)
    figures = [facts(mesh, organ, labels.affine) for mesh, organ in zip(meshes, labels.organs, strict=True)]
    shown = [VIEW] if settings["preview"] else []
    return {"files": [target.name], "preview": shown, "said": list(labels.notes), "found": {"organs": rows(figures)}}
