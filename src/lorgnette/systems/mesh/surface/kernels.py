"""The inner loops of smoothing, compiled by numba where it is installed (extra `fast`).

Each does what the function of arrays does that calls it, to the last digits; the tests compare them.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import functools
from collections.abc import Callable

import numba
import numpy as np

from lorgnette.nn.compiled import FUSED, compiled

_inline = numba.njit(fastmath=FUSED, error_model="numpy", inline="always")


@_inline
def _from_to(x, p, q):
    return x[0, q] - x[0, p], x[1, q] - x[1, p], x[2, q] - x[2, p]


@_inline
def _cross(u, v):
    return u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]


@_inline
def _dot(u, v):
    return u[0] * v[0] + u[1] * v[1] + u[2] * v[2]


@_inline
def _angle(u, v, sign):
    return np.arccos(min(max(sign * _dot(u, v), -1.0), 1.0))


def _areas(x, quads, row, quad, sign, out):
    for s in range(quad.size):
        a, b, c, d = quads[quad[s]]
        ac = _from_to(x, a, c)
        first, second = _cross(_from_to(x, a, b), ac), _cross(ac, _from_to(x, a, d))
        for k in range(3):
            p, q = 0.5 * sign[s] * first[k], 0.5 * sign[s] * second[k]
            out[k, row[s, 0]] += p + q
            out[k, row[s, 1]] += p
            out[k, row[s, 2]] += p + q
            out[k, row[s, 3]] += q


@_inline
def _moved(new, before, low, high, weight):
    new = min(max(new, low), high)
    return new + weight * (new - before), new


def _descend(x, low, high, start, column, entry, start2, column2, entry2, steps):
    ahead, between, momentum = x.copy(), np.empty((start.size - 1, 3)), 1.0
    for _ in range(steps):
        grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        weight = (momentum - 1) / grown
        momentum = grown
        for i in range(start.size - 1):
            u, v, w = 0.0, 0.0, 0.0
            for e in range(start[i], start[i + 1]):
                j = column[e]
                u += entry[e] * ahead[j, 0]
                v += entry[e] * ahead[j, 1]
                w += entry[e] * ahead[j, 2]
            between[i, 0], between[i, 1], between[i, 2] = u, v, w
        for i in range(len(x)):
            u, v, w = 0.0, 0.0, 0.0
            for e in range(start2[i], start2[i + 1]):
                j = column2[e]
                u += entry2[e] * between[j, 0]
                v += entry2[e] * between[j, 1]
                w += entry2[e] * between[j, 2]
            ahead[i, 0], x[i, 0] = _moved(ahead[i, 0] - u, x[i, 0], low[i, 0], high[i, 0], weight)
            ahead[i, 1], x[i, 1] = _moved(ahead[i, 1] - v, x[i, 1], low[i, 1], high[i, 1], weight)
            ahead[i, 2], x[i, 2] = _moved(ahead[i, 2] - w, x[i, 2], low[i, 2], high[i, 2], weight)


def _costs(x, quads, sign, quad, side, edge, side2, edge2, both, alone):
    normal = np.empty((len(quads), 4, 3))
    for q in range(len(quads)):
        a, b, c, d = quads[q]
        ab, ac, ad = _from_to(x, a, b), _from_to(x, a, c), _from_to(x, a, d)
        four = _cross(ab, ac), _cross(ac, ad), _cross(ab, ad), _cross(_from_to(x, b, c), _from_to(x, b, d))
        for t in range(4):
            length = max(np.sqrt(_dot(four[t], four[t])), 1e-30)
            for k in range(3):
                normal[q, t, k] = four[t][k] / length
        alone[q] += _angle(normal[q, 2], normal[q, 3], 1.0) - _angle(normal[q, 0], normal[q, 1], 1.0)
    for e in range(side.size):
        here, there = quad[side[e]], quad[side2[e]]
        turned = sign[side[e]] * sign[side2[e]]
        own, beyond = normal[here], normal[there]
        k, j = edge[e], edge2[e]
        own0, own1, beyond0, beyond1 = own[k // 2], own[2 + (0 < k < 3)], beyond[j // 2], beyond[2 + (0 < j < 3)]
        a00, a01 = _angle(own0, beyond0, turned), _angle(own0, beyond1, turned)
        a10, a11 = _angle(own1, beyond0, turned), _angle(own1, beyond1, turned)
        both[e] = a00 - a01 - a10 + a11
        alone[here] += a10 - a00
        alone[there] += a01 - a00


def _sweep(here, there, both, alone, turn, sweeps, choice):
    cost = np.empty(alone.size)
    for now in range(4 * sweeps):
        cost[:] = alone
        for e in range(here.size):
            p, q = here[e], there[e]
            cost[p] += choice[q] * both[e]
            cost[q] += choice[p] * both[e]
        for q in range(alone.size):
            if turn[q] == now % 4:
                choice[q] = cost[q] < 0


def _folded(x, quads, sign, quad, row, vertex, degree, towards, folded):
    count = np.zeros(vertex.size, np.int64)
    for s in range(quad.size):
        a, b, c, d = quads[quad[s]]
        ab, ac, ad = _from_to(x, a, b), _from_to(x, a, c), _from_to(x, a, d)
        whole, one, other = _cross(ac, _from_to(x, b, d)), _cross(ab, ac), _cross(ab, ad)
        step = 1 if sign[s] > 0 else 3
        for k in range(4):
            r = row[s, k]
            away = towards[0, r], towards[1, r], towards[2, r]
            first, second, total = sign[s] * _dot(one, away), sign[s] * _dot(other, away), sign[s] * _dot(whole, away)
            if min(first, second) <= 0 or max(first, second) >= total:
                folded[vertex[r]] = True
            if degree[r] >= 5:
                u, v, w = abs(away[0]), abs(away[1]), abs(away[2])
                axis = 0 if u <= v and u <= w else 1 if v <= w else 2
                across = _cross(away, (1.0 * (axis == 0), 1.0 * (axis == 1), 1.0 * (axis == 2)))
                before = _dot(_from_to(x, vertex[r], vertex[row[s, (k + step) % 4]]), across) > 0
                after = _dot(_from_to(x, vertex[r], vertex[row[s, (k + 4 - step) % 4]]), across) > 0
                count[r] += after and not before
    for r in range(vertex.size):
        if degree[r] >= 5 and count[r] != 1:
            folded[vertex[r]] = True


def _on_two_sides(x, towards, quads, side, row, pair, planes, apart):
    away = np.empty((6, 3))
    for p in range(len(pair)):
        (q, k), (r, j) = divmod(pair[p, 0], 4), divmod(pair[p, 1], 4)
        at, shared, count = quads[q, k], 0, 0
        u, v, w = 0.0, 0.0, 0.0
        for i in range(1, 4):
            one = quads[q, (k + i) % 4]
            step = _from_to(x, at, one)
            if one == quads[r, (j + 1) % 4] or one == quads[r, (j + 2) % 4] or one == quads[r, (j + 3) % 4]:
                shared += 1
                u, v, w = u + step[0], v + step[1], w + step[2]
            else:
                away[count, 0], away[count, 1], away[count, 2] = -step[0], -step[1], -step[2]
                count += 1
        for i in range(1, 4):
            other = quads[r, (j + i) % 4]
            if other != quads[q, (k + 1) % 4] and other != quads[q, (k + 2) % 4] and other != quads[q, (k + 3) % 4]:
                away[count, 0], away[count, 1], away[count, 2] = _from_to(x, at, other)
                count += 1
        apart[p] = False
        if shared >= 2:
            continue
        length = max(np.sqrt(u * u + v * v + w * w), 1e-30)
        u, v, w = u / length, v / length, w / length
        one, other = row[side[q], k], row[side[r], j]
        a, b, c = (
            towards[0, one] - towards[0, other],
            towards[1, one] - towards[1, other],
            towards[2, one] - towards[2, other],
        )
        for _ in range(planes):
            along = a * u + b * v + c * w
            a, b, c = a - along * u, b - along * v, c - along * w
            least, worst = np.inf, 0
            for i in range(count):
                height = a * away[i, 0] + b * away[i, 1] + c * away[i, 2]
                if height < least:
                    least, worst = height, i
            if least > 0:
                apart[p] = True
                break
            wrong = away[worst]
            back = 1.5 * least / max(_dot(wrong, wrong), 1e-30)
            a, b, c = a - back * wrong[0], b - back * wrong[1], c - back * wrong[2]


@_inline
def _within(x, plane, points, heights):
    """The heights of three points over the plane of three; True if they lie on both sides without those shared."""
    a = plane[0]
    normal = _cross(_from_to(x, a, plane[1]), _from_to(x, a, plane[2]))
    high = low = False
    for k in range(3):
        heights[k] = _dot(normal, _from_to(x, a, points[k]))
        if points[k] != plane[0] and points[k] != plane[1] and points[k] != plane[2]:
            high |= heights[k] > 0
            low |= heights[k] < 0
    return high and low


@_inline
def _meets(x, plane, points, heights):
    """Whether an edge between two of three points goes through the triangle `plane`."""
    for k in range(3):
        p, q = points[k], points[(k + 1) % 3]
        if heights[k] * heights[(k + 1) % 3] >= 0 or (plane == p).any() or (plane == q).any():
            continue
        way, low, high = _from_to(x, p, q), 0, 0
        for i in range(3):
            turn = _dot(_cross(way, _from_to(x, p, plane[i])), _from_to(x, p, plane[(i + 1) % 3]))
            high += turn >= 0
            low += turn <= 0
        if low == 3 or high == 3:
            return True
    return False


def _crossing(x, triangles, pairs, found):
    up, down = np.empty(3), np.empty(3)
    for p in range(len(pairs)):
        one, other = triangles[pairs[p, 0]], triangles[pairs[p, 1]]
        shared = 0
        for i in range(3):
            for j in range(3):
                shared += one[i] == other[j]
        both = _within(x, one, other, up) and _within(x, other, one, down)
        found[p] = shared < 2 and both and (_meets(x, one, other, up) or _meets(x, other, one, down))


_F, _I, _X, _CSR = "f8[::1]", "i8[::1]", "f8[:,::1]", "u4[::1], u4[::1], f8[::1]"


@functools.cache
def areas() -> Callable[..., None]:
    """`Fairing.at_vertices`."""
    return compiled(_areas, f"void({_X}, i8[:,::1], i8[:,::1], {_I}, {_F}, {_X})")


@functools.cache
def descend() -> Callable[..., None]:
    """`fairing._descend`; x is changed."""
    return compiled(_descend, f"void({_X}, {_X}, {_X}, {_CSR}, {_CSR}, i8)")


@functools.cache
def costs() -> Callable[..., None]:
    """`diagonals._costs`."""
    return compiled(_costs, f"void({_X}, i8[:,::1], {_F}, {_I}, {_I}, {_I}, {_I}, {_I}, {_F}, {_F})")


@functools.cache
def sweep() -> Callable[..., None]:
    """The sweeps of `diagonals.choose`."""
    return compiled(_sweep, f"void({_I}, {_I}, {_F}, {_F}, {_I}, i8, {_F})")


@functools.cache
def folded() -> Callable[..., None]:
    """`crossings._folded`."""
    return compiled(_folded, f"void({_X}, i8[:,::1], {_F}, {_I}, i8[:,::1], {_I}, {_I}, {_X}, b1[::1])")


@functools.cache
def on_two_sides() -> Callable[..., None]:
    """`crossings._on_two_sides`."""
    return compiled(_on_two_sides, f"void({_X}, {_X}, i8[:,::1], {_I}, i8[:,::1], i8[:,::1], i8, b1[::1])")


@functools.cache
def crossing() -> Callable[..., None]:
    """`crossings.crossing`."""
    return compiled(_crossing, f"void({_X}, i8[:,::1], i8[:,::1], b1[::1])")
