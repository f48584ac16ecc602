"""Turn a finished run of recipes/*-base.yaml into the weights that ship in the package.

    python tools/ship_base.py runs/superres-base/adapter src/lorgnette/systems/superres/base

Weights are stored as float16 (half the size; they are computed with as float32), beside the run's recipe.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import save_file

import lorgnette
from lorgnette.checkpoint import RECIPE_FILE, load_recipe, recipe_text
from lorgnette.common.files import atomic_write, write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the trained model")
    parser.add_argument("out", type=Path, help="folder of the shipped one")
    options = parser.parse_args()
    task = lorgnette.load(options.model)
    state = {name: tensor.half().contiguous() for name, tensor in task.model.state_dict().items()}
    with atomic_write(options.out / "model.safetensors") as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
    for name, text in task.companions().items():
        write_text(options.out / name, text)
    write_text(options.out / RECIPE_FILE, recipe_text(load_recipe(options.model)))
    print(f"{options.out}: {(options.out / 'model.safetensors').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
