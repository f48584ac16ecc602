"""An organ from masks on a few slices, without any training: slices extruded, and shapes interpolated."""

from __future__ import annotations

import numpy as np

from lorgnette.systems.mesh.slices.given import Array, Given, Mask


def extruded(given: Given, at: Array) -> Array:
    """Each place has the nearest slice's section, between the `ends`.

    Args:
        given: the slices.
        at: (M,) mm along their axis.

    Returns:
        (X, Y, M) signed distances in mm, negative inside.
    """
    low, high = ends(given)
    return np.maximum(nearest(given, at), np.maximum(low - at, at - high))


def interpolated(given: Given, at: Array) -> Array:
    """Signed distances in the slices, linearly between them (Raya and Udupa, IEEE TMI 9(1), 1990).

    Towards an empty slice the nearest marked one shrinks until it is gone. Beyond the outermost marked slices the
    section shrinks as that of an ellipsoid with its poles at the `ends`: a ball is found from the slice through its
    middle. Arguments and result as of `extruded`.
    """
    flat, marked = distances(given), np.flatnonzero(given.sections.any((1, 2)))
    for number in set(range(len(flat))) - set(marked):
        other = marked[np.abs(given.positions[marked] - given.positions[number]).argmin()]
        flat[number] = flat[other] - flat[other].min()
    inner = slice(marked[0], marked[-1] + 1)
    flat, place = flat[inner], given.positions[inner]
    between = linear(flat, place, at)
    low, high = ends(given)
    for end, far, up in ((0, place[0] - low, place[0] - at), (-1, high - place[-1], at - place[-1])):
        radius, up = -flat[end].min(), np.maximum(up, 0)
        cap = 1 - np.sqrt(np.maximum(1 - (up / far) ** 2, 0))
        between += radius * cap + np.maximum(up - far, 0)
    return between


def nearest(given: Given, at: Array) -> Array:
    """(X, Y, M) signed distances in the slice that is nearest to each of the places (M,), in mm."""
    return np.moveaxis(distances(given)[np.abs(at[:, None] - given.positions).argmin(1)], 0, 2)


def ends(given: Given) -> tuple[float, float]:
    """Between which places on the slices' axis the organ is taken to lie, in mm.

    Where an empty slice is given beyond the outermost marked ones, up to it; else half as far beyond them as the next
    marked one is on the other side; and where there is no other, the radius of a disc with the area of the one.
    """
    marked, place = np.flatnonzero(given.sections.any((1, 2))), given.positions
    first, last = marked[0], marked[-1]
    gaps = np.diff(place[marked]) / 2
    if not len(gaps):
        gaps = np.sqrt(given.sections[marked].sum((1, 2)) * np.prod(given.pixel) / np.pi)
    low = place[first - 1] if first else place[first] - gaps[0]
    high = place[last + 1] if last + 1 < len(place) else place[last] + gaps[-1]
    return float(low), float(high)


def linear(flat: Array, place: Array, at: Array) -> Array:
    """(X, Y, M): planes (K, X, Y) at places (K,), linearly between them; beyond, the last one."""
    right = np.clip(np.searchsorted(place, at), min(1, len(place) - 1), len(place) - 1)
    left = np.maximum(right - 1, 0)
    share = np.clip((at - place[left]) / np.maximum(place[right] - place[left], 1e-9), 0, 1)
    return np.moveaxis(flat[left], 0, 2) * (1 - share) + np.moveaxis(flat[right], 0, 2) * share


def distances(given: Given) -> Array:
    """(K, X, Y) distances in each slice to the contour between pixels, in mm, negative inside; far where empty."""
    return np.stack([signed(section, given.pixel) for section in given.sections])


def signed(section: Mask, spacing: tuple[float, float]) -> Array:
    """The same of one section (X, Y)."""
    from lorgnette.systems.mesh.lattice import ndimage

    if not section.any():
        return np.full(section.shape, float(np.hypot(*np.multiply(section.shape, spacing))))
    framed, half = np.pad(section, 1), min(spacing) / 2  # what goes on beyond the border ends there
    outer, inner = (np.asarray(ndimage().distance_transform_edt(part, sampling=spacing)) for part in (~framed, framed))
    return np.where(framed, half - inner, outer - half)[1:-1, 1:-1]
