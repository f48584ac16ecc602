"""`lorgnette info ADAPTER|FILE`: what it holds, without loading it; or what a recipe would adapt."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lorgnette.cli.arguments import Arguments, add_json
from lorgnette.common.files import read_json, write_json
from lorgnette.common.hub import is_hub
from lorgnette.common.text import duration, nearest, number, size
from lorgnette.export.manifest import SUFFIXES, read_manifest

MAX_HEADER = 100 * 2**20  # the format's own limit
MAX_PICKLED = 2**32  # bytes
LISTED = 20  # tensors or layers that are named one by one


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = Arguments(
        "info",
        "lorgnette info runs/NAME/adapter",
        "Says what an adapter, a whole model, a safetensors file or an exported model holds. No weights are loaded.",
    )
    parser.add_argument(
        "path",
        metavar="PATH",
        help="folder of an adapter or a model, a NAME that ships, hub:user/name, a .safetensors or an exported file",
    )
    parser.add_argument(
        "--plan", action="store_true", help="PATH is a room, a recipe.yaml or its folder: list what it adapts"
    )
    add_json(parser)
    options = parser.read(words)
    if options.plan:
        return _plan(options.path, options.json)
    path = Path(options.path)
    if not path.exists():
        from lorgnette.shipped import named_folder, rooms_with_adapter

        if is_hub(path) or rooms_with_adapter(path.name):
            path = named_folder(options.path)
    facts = _of_folder(path) if path.is_dir() else _of_file(path)
    for title, value in facts.items():
        print(f"{title:<13} {_shown(title, value)}".rstrip())
    if options.json:
        write_json(options.json, facts)
    return 0


def _plan(what: str, json_file: str | None) -> int:
    """Build the base model of a recipe, and print the table of the adapters it would get."""
    from dataclasses import asdict

    from lorgnette.recipe import recipe_from_dict
    from lorgnette.settings import read_yaml
    from lorgnette.systems import ROOMS, room, room_of

    if what in ROOMS:
        recipe = room(what).Recipe()
    else:
        file = Path(what) / "recipe.yaml" if Path(what).is_dir() else Path(what)
        recipe = recipe_from_dict({"format_version": 1} | read_yaml(file), str(file))
    if recipe.lora is None:
        raise ValueError(f"{what}: lora is switched off in this recipe, so that it adapts nothing")

    from lorgnette import lora

    plan = lora.plan(room_of(recipe).make_task(recipe).model, recipe.lora)
    print(plan)
    if json_file:
        write_json(json_file, asdict(plan) | {"parameters": plan.parameters})
    return 0


def _shown(title: str, value: Any) -> str:
    if isinstance(value, dict):
        lines = [f"{name}  {what}" for name, what in list(value.items())[:LISTED]]
        lines += [f"and {len(value) - LISTED} more"] if len(value) > LISTED else []
        return ("\n" + " " * 14).join(lines)
    if title == "bytes":
        return f"{value:,} ({size(value)})"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _of_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        names = [file.name for file in path.parent.glob("*")] if path.parent.is_dir() else []
        raise FileNotFoundError(f"no such file or folder: {path}{nearest(path.name, names)}")
    if path.suffix in SUFFIXES:
        return _exported(path)
    tensors = _tensors(path)
    return {
        "file": str(path),
        **_adapter_format(tensors),
        "tensors": len(tensors),
        "parameters": sum(math.prod(shape) for _, shape in tensors.values()),
        "bytes": path.stat().st_size,
        "contents": _described(tensors),
    }


def _exported(path: Path) -> dict[str, Any]:
    """What an exported file says of itself."""
    facts: dict[str, Any] = {"exported": str(path), "bytes": path.stat().st_size}
    manifest = read_manifest(path)
    if manifest is None:
        return facts | {"written by": "another program: it holds no manifest of ours"}
    facts |= {"room": manifest.room, "base": _settings(manifest.recipe.get("model"))}
    free = {name: ", ".join(f"axis {axis} {length}" for axis, length in axes.items()) or "fixed"
            for name, axes in manifest.inputs.items()}  # fmt: skip
    facts |= {"inputs": free, "output": manifest.output}
    if how := manifest.pictures:
        facts["scale"] = str(how.factor) if how.factor else f"{how.least_scale:g} to {how.most_scale:g}"
        facts["tiles"] = f"{how.tile} pixels, seeing {how.halo} beyond"
    facts |= {"int8": dict(manifest.int8)} if manifest.int8 else {}
    facts |= {name.replace("_", " "): _settings(value) for name, value in manifest.facts.items()}
    return facts | {"weights": manifest.weights, "written by": f"lorgnette {manifest.version}"}


def _settings(value: Any) -> str:
    """Settings in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {'none' if what == '' else what}" for key, what in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _adapter_format(names: Iterable[str]) -> dict[str, str]:
    """What `lorgnette.lora.import_adapter` would take the file for."""
    names = list(names)
    if any(name.endswith((".lora_down.weight", ".lora_up.weight")) for name in names):
        return {"adapter of": "kohya-ss/sd-scripts or a program that writes its layout"}
    if any(name.endswith(".lora_A") for name in names):
        return {"adapter of": "loralib or a program that writes its layout"}
    return {}


def _of_folder(folder: Path) -> dict[str, Any]:
    from lorgnette.lora.files.commit import PEFT_CONFIG, PICKLED, WEIGHTS, adapter_folder, adapter_info, current_file

    folder = adapter_folder(folder)
    model_file = folder / "model.safetensors"
    if model_file.is_file():
        return {"whole model": str(folder)} | _recipe_facts(folder) | _learnt(folder) | _weights_facts(model_file)
    manifest = adapter_info(folder)
    facts: dict[str, Any] = {"adapter": str(folder)} | _recipe_facts(folder) | _learnt(folder)
    weights = current_file(folder, WEIGHTS)
    if not weights.is_file() and (folder / PICKLED).is_file():
        weights = folder / PICKLED
    if manifest:
        try:
            layers = {name: f"r {layer['r']}" for name, layer in manifest["layers"].items()}
            ranks = sorted({layer["r"] for layer in manifest["layers"].values()})
            facts["rank"] = " ".join(map(str, ranks))
            facts["trained too"] = ", ".join(manifest["trained"]) or "nothing"
            facts["PEFT reads it"] = "yes" if manifest["peft"] else "no"
            base = manifest["base"]
            facts["fingerprint"] = f"structure {base['structure']}, content {base['content']}"
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the manifest in {folder} is damaged ({error!r})") from None
    else:
        config = read_json(current_file(folder, PEFT_CONFIG))
        if not isinstance(config, dict):
            raise ValueError(f"{PEFT_CONFIG} in {folder} is not a table")
        facts["written by"] = "PEFT or a program that writes its layout"
        facts["rank"] = str(config.get("r"))
        layers = dict.fromkeys(_adapted_names(_tensors(weights)), "")
    return facts | _weights_facts(weights) | {"layers": layers}


def _recipe_facts(folder: Path) -> dict[str, Any]:
    """Room and base, as far as a recipe tells."""
    from lorgnette.settings import read_yaml

    path = folder / "recipe.yaml"
    if not path.is_file():
        return {}
    recipe = read_yaml(path)
    facts = {"room": str(recipe.get("room"))}
    model = recipe.get("model")
    if isinstance(model, dict):
        facts["base"] = _settings(model)
    data = recipe.get("data")
    if isinstance(data, dict):
        facts["data"] = ", ".join(f"{key} {value}" for key, value in data.items() if value is not None)
    settings = recipe.get("lora")
    if isinstance(settings, dict):
        facts["targets"] = str(settings.get("target_modules"))
    return facts


def _learnt(folder: Path) -> dict[str, Any]:
    """How much it learnt from, how long, and what that brought, as the training noted it."""
    from lorgnette.lora.files.commit import current_file

    path = current_file(folder, "training.json")
    if not path.is_file():
        return {}
    notes = read_json(path)
    try:
        if "rounds" in notes:
            how = f"{notes['rounds']} rounds of {notes['clients']} holders of data"
            facts = {"learnt for": f"{how}; best after round {notes['best_round']}"}
        else:
            how = f"{notes['steps']} steps, {duration(notes['seconds'])}; best at step {notes['best_step']}"
            facts = {"learnt from": f"{notes['samples']} samples", "learnt for": how}
            facts |= {"scored on": f"{notes['held_out']} held-out pictures"} if notes["held_out"] else {}
        before = notes.get("before", {})
        scores = {name: _gain(before.get(name), value) for name, value in notes["after"].items()}
        return facts | {"gained": scores or "not known: nothing was held out"}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r})") from None


def _gain(before: float | None, after: float | None) -> str:
    from lorgnette.train.listeners.record import change

    told = "" if before is None else f"{number(before)} before, "
    gain = change(after, before)
    return f"{told}{number(after)} after{f' ({gain})' if gain else ''}"


def _weights_facts(path: Path) -> dict[str, Any]:
    tensors = _tensors(path)
    return {"parameters": sum(math.prod(shape) for _, shape in tensors.values()), "bytes": path.stat().st_size}


def _adapted_names(tensors: dict[str, tuple[str, list[int]]]) -> list[str]:
    return [name.removeprefix("base_model.model.").partition(".lora_A")[0] for name in tensors if ".lora_A" in name]


def _described(tensors: dict[str, tuple[str, list[int]]]) -> dict[str, str]:
    return {name: f"{'x'.join(map(str, shape)) or 'scalar'} {dtype}" for name, (dtype, shape) in tensors.items()}


def _tensors(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Name -> (dtype, shape), from the header of a safetensors file, or from an `adapter_model.bin`."""
    from lorgnette.lora.files.commit import PICKLED

    if path.name == PICKLED:
        from lorgnette.common.tensors import read_tensors
        from lorgnette.lora.files.weights import named_tensors

        found = named_tensors(read_tensors(path, MAX_PICKLED))
        return {name: (str(t.dtype).removeprefix("torch."), list(t.shape)) for name, t in sorted(found.items())}
    if path.suffix not in (".safetensors", ".lorgnette-pending"):
        raise ValueError(f"{path} is no safetensors file; nothing else is opened")
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MAX_HEADER, path.stat().st_size - 8):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        return {
            name: (str(entry["dtype"]), [int(n) for n in entry["shape"]])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not an intact safetensors file ({error})") from None
