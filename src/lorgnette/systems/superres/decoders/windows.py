"""A picture rendered without gathers: each latent pixel colours its own window of it, and the windows are added up.

A colour is a weighted sum of what the four latent pixels around it say, and the weights are products of one for each
axis. Seen the other way round, a latent pixel has its say in the rows and columns less than one latent pixel away. What
it knows is then read once, not once for each colour, and its render network becomes one of its own, small matrices that
do not change within the window. For any scale, on both axes apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH = 16
"""Of the render networks that have a compiled kernel; that of all published models."""
NUDGE = 1e-6  # decides between two neighbours where a coordinate lies exactly on the border of two pixels


class Windows(NamedTuple):
    """Of one axis: where the window of each of n latent pixels begins, and for its up to k places, the rest idle."""

    start: Tensor
    """(n,) the first row (or column) of the picture."""
    rel: Tensor
    """(n, k) from the centre of the latent pixel, in halves of it."""
    weight: Tensor
    """(n, k) share of the latent pixel in the colour; 0 where the place is idle."""
    size: int
    """Rows (or columns) of the picture."""


def axis_windows(coord: Tensor, n: int, ensemble: bool = True) -> Windows:
    """The windows of one axis.

    Args:
        coord: (N,) rising coordinates of the picture's rows (or columns), [-1, 1] from edge to edge.
        n: latent pixels along the axis.
        ensemble: colours come from the two nearest latent pixels of an axis; else from the nearest.
    """
    exact, pixel = coord.double(), torch.arange(n, device=coord.device)
    # As for single points: one rounding decides on both neighbours.
    first = ((coord + (1 + NUDGE)) * n / 2 - (0.5 if ensemble else 0)).floor().long()
    low, high = first.clamp(0, n - 1), (first + 1 if ensemble else first).clamp(0, n - 1)
    start, stop = torch.searchsorted(high, pixel), torch.searchsorted(low, pixel, right=True)
    place = torch.arange(int((stop - start).max()), device=coord.device)
    index = (start[:, None] + place).clamp(max=len(coord) - 1)
    before, after = (((exact - ((2 * side + 1) / n - 1)) * n).abs() + 1e-9 for side in (low, high))
    share = (before / (before + after))[index]  # of the neighbour after: nearer to it, more of it
    weight = (low[index] == pixel[:, None]) * (1 - share) + (high[index] == pixel[:, None]) * share
    rel = (exact[index] - ((2 * pixel[:, None] + 1) / n - 1)) * n
    inside = place < (stop - start)[:, None]
    return Windows(start, (rel * inside).to(coord.dtype), (weight * inside).to(coord.dtype), len(coord))


Colours = Callable[[Tensor, Tensor, Tensor], Tensor]
"""own (P, M), rel_y (P, Ky), rel_x (P, Kx) -> (P, 3, Ky, Kx): what latent pixels say in their windows."""


def summed(mod: Tensor, y: Windows, x: Windows, colours: Colours, chunk: int, wanted: Tensor | None = None) -> Tensor:
    """What all latent pixels say of a picture, (3, H, W).

    Args:
        mod: (h, w, M), what each latent pixel knows.
        y: windows of the rows.
        x: windows of the columns.
        colours: what is said.
        chunk: colours worked out at a time, about.
        wanted: (h, w) bool: what is nearest to one of these latent pixels is right, nothing else need be. None: all.
    """
    if wanted is not None:  # a colour is said by its nearest latent pixel and by those around that
        wanted = F.max_pool2d(wanted[None].float(), 3, stride=1, padding=1)[0] > 0
    h, w, _ = mod.shape
    out = mod.new_zeros(3, y.size, x.size)
    ky, kx = y.rel.shape[1], x.rel.shape[1]
    pixels = max(1, chunk // (ky * kx))
    columns = min(w, pixels)
    rows = max(1, pixels // columns)
    for top in range(0, h, rows):
        ry, wy = y.rel[top : top + rows], y.weight[top : top + rows]
        for left in range(0, w, columns):
            rx, wx = x.rel[left : left + columns], x.weight[left : left + columns]
            own, (r, c) = mod[top : top + rows, left : left + columns].flatten(0, 1), (len(ry), len(rx))
            rel_y, rel_x = ry[:, None].expand(r, c, ky).flatten(0, 1), rx.expand(r, c, kx).flatten(0, 1)
            if wanted is None:
                said = colours(own, rel_y, rel_x)
            else:
                some = wanted[top : top + rows, left : left + columns].flatten()
                said = mod.new_zeros(len(own), 3, ky, kx)
                said[some] = colours(own[some], rel_y[some], rel_x[some])
            said = said.view(r, c, 3, ky, kx) * (wy[:, None, None, :, None] * wx[:, None, None, :])
            where_x = _places(x.start[left : left + columns], kx, x.size)
            where_y = _places(y.start[top : top + rows], ky, y.size)
            left_out, right_out = int(where_x.min()), int(where_x.max()) + 1
            lines = said.new_zeros(3, r * ky, right_out - left_out)
            lines.index_add_(2, where_x - left_out, said.permute(2, 0, 3, 1, 4).reshape(3, r * ky, c * kx))
            out[:, :, left_out:right_out].index_add_(1, where_y, lines)
    return out


def _places(start: Tensor, k: int, end: int) -> Tensor:
    """The rows of windows one after another; idle places, which add nothing, may fall on the last."""
    return (start[:, None] + torch.arange(k, device=start.device)).clamp(max=end - 1).flatten()
