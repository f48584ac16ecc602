"""All that is learnt from as one long row of pixels on the device, and the plan of which are looked at."""

from __future__ import annotations

import json
import math
import time

import torch
from pictures import packed, quantised
from torch import Tensor

from lorgnette.images.resize import imresize
from lorgnette.peers.dat import DATLight

START = time.time()
INTEGER = (2, 3, 4)
SCALES = (2.0, 3.0, 4.0, 1.2, 1.5, 1.8, 2.3, 2.6, 3.3, 3.6)
SHARE = (0.25, 0.26, 0.28, 0.02, 0.03, 0.03, 0.03, 0.03, 0.04, 0.03)


def say(log, **facts):
    line = json.dumps({"s": round(time.time() - START, 2), **facts})
    print(line, flush=True)
    if log is not None:
        log.write(line + "\n")
        log.flush()


class Store:
    """All pictures, their small versions and the teacher's enlargements as one long row of pixels on the device."""

    def __init__(self, groups: list[Tensor], patch: int, teacher: bool, batch_pixels: int, log):
        device = groups[0].device
        self.patch, rows, parts, at = patch, [], [], 0

        def put(x):
            nonlocal at
            parts.append(packed(x))
            start, at = at, at + parts[-1].numel()
            return start

        truth = [put(g) for g in groups]
        teachers, spent = {}, 0.0
        for number, scale in enumerate(SCALES):
            whole = scale in INTEGER
            if whole and teacher:
                teachers[scale] = DATLight(int(scale), device)
            for g, hr_at in zip(groups, truth, strict=True):
                n, _, big_h, big_w = g.shape
                h, w = math.floor(big_h / scale + 1e-9), math.floor(big_w / scale + 1e-9)
                if min(h, w) < patch:
                    continue
                used_h, used_w = (h * int(scale), w * int(scale)) if whole else (big_h, big_w)
                if n == 1:  # many sizes: quicker on the CPU, and without the teacher
                    if not whole:
                        continue
                    lr = quantised(imresize(g[..., :used_h, :used_w].cpu(), size=(h, w))).to(device)
                else:
                    lr = torch.cat(
                        [quantised(imresize(part[..., :used_h, :used_w], size=(h, w))) for part in g.split(128)]
                    )
                lr_at = put(lr)
                soft_at, soft_w, known = hr_at, big_w, False
                if scale in teachers and n > 1:
                    begin = time.time()
                    size = max(1, batch_pixels // (h * w))
                    soft = []
                    for part in lr.split(size):
                        soft.append(teachers[scale](part))
                        if not soft[-1].isfinite().all():
                            soft[-1] = teachers[scale](part, half=False)
                    soft = torch.cat(soft)
                    if device.type == "cuda":
                        torch.cuda.synchronize()
                    spent += time.time() - begin
                    dB = [
                        -10 * (x[:64] - g[:64, :, :used_h, :used_w]).square().mean().log10().item()
                        for x in (soft, imresize(lr[:64], size=(used_h, used_w)))
                    ]
                    say(
                        log,
                        teacher=scale,
                        pictures=n,
                        rgb_psnr=round(dB[0], 2),
                        bicubic=round(dB[1], 2),
                        spent=round(spent, 1),
                    )
                    soft_at, soft_w, known = put(soft), used_w, True
                for i in range(n):
                    rows.append(
                        (
                            number,
                            lr_at + i * h * w,
                            h,
                            w,
                            hr_at + i * big_h * big_w,
                            big_w,
                            used_h,
                            used_w,
                            soft_at + i * (used_h * used_w if known else big_h * big_w),
                            soft_w,
                            float(known),
                            big_h * big_w,
                        )
                    )
            teachers.pop(scale, None)
        self.pixels = torch.cat(parts)
        self.rows = torch.tensor(rows, dtype=torch.float64)
        # Which picture: by its number of pixels, small ones a little more often.
        self.tables = []
        for number in range(len(SCALES)):
            mine = (self.rows[:, 0] == number).nonzero()[:, 0]
            chance = self.rows[mine, 11].pow(0.75)
            self.tables.append((mine, (chance / chance.sum())))


def plan(store: Store, steps: int, batch: int, rng: torch.Generator, device) -> dict[str, Tensor]:
    """Which crops and points the next steps see: everything random, drawn ahead, on the device."""
    n, total = store.patch, steps * batch
    share = torch.tensor(SHARE, dtype=torch.float64)
    share = share * torch.tensor([len(t[0]) > 0 for t in store.tables])
    numbers = torch.multinomial(share, total, True, generator=rng)
    index = torch.empty(total, dtype=torch.long)
    for number, (mine, chance) in enumerate(store.tables):
        where = (numbers == number).nonzero()[:, 0]
        if len(where):
            index[where] = mine[torch.multinomial(chance, len(where), True, generator=rng)]
    uniform = torch.rand(total, 5, generator=rng, dtype=torch.float64).to(device)
    row = store.rows[index].to(device)
    _, lr_at, h, w, hr_at, hr_w, used_h, used_w, soft_at, soft_w, soft, _ = row.unbind(1)
    flip = uniform[:, :2] < 0.5
    turn = uniform[:, 2] < 0.5
    out: dict[str, Tensor] = {}
    axes = []
    for axis, (small, large) in enumerate(((h, used_h), (w, used_w))):
        first = (uniform[:, 3 + axis] * (small - n + 1)).floor()
        s = large / small
        inner = torch.arange(n, device=device, dtype=torch.float64)
        edges = torch.cat([first[:, None] - 0.5, first[:, None] + inner, first[:, None] + n - 0.5], dim=1)
        k = (s[:, None] * (edges + 0.5) - 0.5 - 1e-9).ceil()
        low, count = k[:, :-1], (k[:, 1:] - k[:, :-1])
        draw = torch.rand(total, n + 1, 2, device=device)
        one = (draw[..., 0].double() * count).floor().clamp(min=0)
        two = (one + 1 + (draw[..., 1].double() * (count - 1)).floor()) % count.clamp(min=1)
        chosen = low[..., None] + torch.stack([one, torch.where(count > 1, two, one)], -1)
        chosen = chosen.clamp(min=0).minimum((large - 1)[:, None, None])  # (T, n + 1, 2) rows of the large picture
        place = (chosen + 0.5) / s[:, None, None] - 0.5 - first[:, None, None]
        near = first[:, None] + inner
        valid = (count > 0).float()
        f = flip[:, axis]
        place = torch.where(f[:, None, None], n - 1 - place.flip(1), place)
        chosen = torch.where(f[:, None, None], chosen.flip(1), chosen)
        near = torch.where(f[:, None], near.flip(1), near)
        valid = torch.where(f[:, None], valid.flip(1), valid)
        around = torch.cat([place[:, :-1], place[:, 1:]], dim=-1) - inner[None, :, None]  # (T, n, 4)
        weight = 1 - around.abs()
        weight[:, 0, :2] = 1
        weight[:, -1, 2:] = 1
        axes.append(
            {"rel": 2 * around, "weight": weight, "near": near, "far": chosen.flatten(1), "valid": valid, "cell": 2 / s}
        )
    for name in ("rel", "weight", "valid", "cell"):
        a, b = axes[0][name], axes[1][name]
        t = turn.view(-1, *[1] * (a.ndim - 1))
        out[name + "_y"], out[name + "_x"] = torch.where(t, b, a).float(), torch.where(t, a, b).float()
    for name, key, at, stride in (
        ("lr", "near", lr_at, w),
        ("hr", "far", hr_at, hr_w),
        ("soft", "far", soft_at, soft_w),
    ):
        a = axes[0][key] * stride[:, None] + at[:, None]
        b = axes[1][key]
        out[name + "_y"] = torch.where(turn[:, None], b, a).long()
        out[name + "_x"] = torch.where(turn[:, None], a, b).long()
    out["soft"] = soft.float()
    return {k: v.view(steps, batch, *v.shape[1:]).contiguous() for k, v in out.items()}
