"""`lorgnette merge ADAPTER OUT`: a whole model with the adapter folded in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lorgnette.cli.arguments import Arguments, kept_folder
from lorgnette.common.files import read_json


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = Arguments(
        "merge",
        "lorgnette merge runs/NAME/adapter merged",
        "Folds an adapter into its model: the result needs no adapter, runs at the model's own speed and "
        "gives the same output.",
    )
    about = "folder of the adapter or of its run, or a NAME that ships"
    parser.add_argument("adapter", type=kept_folder, metavar="ADAPTER", help=about)
    parser.add_argument("out", metavar="OUT", help="folder for the whole model; it must not exist or be empty")
    options = parser.read(words)

    from lorgnette.checkpoint import LEARNT_FILE, load, load_recipe, save
    from lorgnette.lora import adapted_layers, current_file, merge_lora_weights

    out = Path(options.out)
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: give a new folder")
    recipe = load_recipe(options.adapter)
    if recipe.lora is None:
        raise ValueError(f"{options.adapter} holds a whole model: there is nothing to merge")
    task = load(options.adapter)
    count = len(adapted_layers(task.model))
    merge_lora_weights(task.model, safe=True)
    for name, layer in adapted_layers(task.model).items():
        raise ValueError(f"{options.adapter}: {name!r} has {layer.lora_method.title}, which cannot be merged")
    notes = current_file(options.adapter, LEARNT_FILE)
    save(task, replace(recipe, lora=None), out, read_json(notes) if notes.is_file() else None)
    print(f"{count} layers merged\nkept     {out}")
    return 0
