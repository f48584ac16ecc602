"""Turn a finished run of recipes/ROOM-NAME.yaml into an adapter that ships in the package.

    python tools/ship_adapter.py runs/photo src/lorgnette/systems/superres/adapters/photo

Its numbers are stored as float16 (half the size; they are computed with as float32), with how it was trained.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lorgnette
from lorgnette.checkpoint import LEARNT_FILE, load_recipe, save
from lorgnette.lora import adapter_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run, or its adapter")
    parser.add_argument("out", type=Path, help="folder of the shipped one")
    options = parser.parse_args()
    folder = Path(adapter_folder(options.run))
    task, recipe = lorgnette.load(folder), load_recipe(folder)
    for name, tensor in task.model.named_parameters():
        if "lora_" in name:
            tensor.data = tensor.data.half()
    learnt = json.loads((folder / LEARNT_FILE).read_text(encoding="utf-8"))
    learnt.pop("format_version")
    save(task, without_paths(recipe), options.out, learnt)
    print(f"{options.out}: {sum(path.stat().st_size for path in options.out.iterdir()):,} bytes")


def without_paths(recipe: Any) -> Any:
    """The recipe without the folders of whoever trained it."""
    own = dict.fromkeys(type(recipe.data).OWN)
    return replace(recipe, data=replace(recipe.data, **own))


if __name__ == "__main__":
    main()
