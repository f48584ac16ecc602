"""What happens once a run, beside PEFT: import, injection, saving, loading."""

from __future__ import annotations

import copy
import gc
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from lorgnette.lora import LoRAConfig, fingerprint, inject_lora, load_adapter, save_adapter
from parts.models import peft, with_ours, with_peft
from parts.stacks import LINEARS, vit

IMPORTS = ("from lorgnette.lora import inject_lora", "from peft import get_peft_model")


def small_layers(count: int, width: int = 32) -> nn.Module:
    """A model of many small layers, named 0.0, 1.0, ..."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(count)))


def around(rounds: int) -> Iterator[dict[str, Any]]:
    """What happens once a run: import, injection, saving, loading. Rows of the second table."""
    code = "import time, torch; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
    imports = {name: _python(code.format(name)) for name in IMPORTS}
    yield _row("import, after torch", "", *([imports[name]] for name in IMPORTS))

    blocks = vit(depth=12, width=192)
    many = [("48 layers of a ViT", blocks.make(), LINEARS), ("400 layers", small_layers(400), r"\d+\.0")]
    for title, base, targets in many:
        ours = LoRAConfig(r=8, target_modules=targets)
        theirs = peft.LoraConfig(r=8, target_modules=targets)
        yield _alternate(
            "injection",
            title,
            rounds,
            lambda base=base: copy.deepcopy(base),
            lambda model, ours=ours: inject_lora(model, ours),
            lambda model, theirs=theirs: peft.get_peft_model(model, theirs),
        )

    base = vit(depth=12, width=384).make()
    known = fingerprint(base)
    mine, theirs = with_ours(base, LINEARS, 8, 0.0), with_peft(base, LINEARS, 8, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        here, there = Path(folder, "ours"), Path(folder, "peft")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")

            def fresh() -> nn.Module:
                return copy.deepcopy(base)

            def no_model() -> None:
                return None

            def load_theirs(model: nn.Module) -> Any:
                return peft.PeftModel.from_pretrained(model, str(there))

            def save_theirs(_: None) -> Any:
                return theirs.save_pretrained(str(there))  # type: ignore[operator]

            title = "ViT-S, rank 8, 2.4 MB"
            told, hashed = f"{title}, base known by its fingerprint", f"{title}, base hashed each time"
            for name, fingerprints in ((told, known), (hashed, None)):
                yield _alternate(
                    "save",
                    name,
                    rounds,
                    no_model,
                    lambda _, f=fingerprints: save_adapter(mine, here, base=f),
                    save_theirs,
                )
                yield _alternate(
                    "load", name, rounds, fresh, lambda m, f=fingerprints: load_adapter(m, here, base=f), load_theirs
                )


def _alternate(
    what: str,
    title: str,
    rounds: int,
    prepare: Callable[[], Any],
    ours: Callable[[Any], Any],
    theirs: Callable[[Any], Any],
) -> dict[str, Any]:
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for action, seconds in zip((ours, theirs), times, strict=True):
            subject = prepare()
            gc.collect()
            start = time.perf_counter()
            action(subject)
            if turn:
                seconds.append(time.perf_counter() - start)
    return _row(what, title, *times)


def _row(what: str, title: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "what": what,
        "case": title,
        "seconds": statistics.median(ours),
        "seconds_peft": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def _python(code: str) -> float:
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return float(result.stdout)
