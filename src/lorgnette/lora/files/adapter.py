"""Adapters as folders: PEFT's two files, and a third with what PEFT has no place for.

adapter_model.safetensors    the tensors, under PEFT's names
adapter_config.json          PEFT's settings (or a marker, where PEFT cannot express the adapter)
lorgnette.json               format version, settings of each layer, fingerprint of the base, extras
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lorgnette.common.files import read_json
from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.files.commit import (
    FORMAT_VERSION,
    MANIFEST,
    PEFT_CONFIG,
    WEIGHTS,
    adapter_folder,
    adapter_info,
    current_file,
    replace_files,
)
from lorgnette.lora.files.fingerprint import Fingerprint, base_dtypes, difference_but_for_dtype, fingerprint
from lorgnette.lora.files.loading import load_onto
from lorgnette.lora.files.peft import (
    OWN_TYPE,
    lost_layer,
    peft_config,
    peft_names,
    settings_from_peft,
    to_peft,
    unpacked,
)
from lorgnette.lora.files.peft_parameters import unwrap
from lorgnette.lora.files.peft_variants import biases_folded, with_starts
from lorgnette.lora.files.weights import hash_bytes, read_weights
from lorgnette.lora.finite import warn_of
from lorgnette.lora.layers.base import LORA_TENSORS, LowRank, adapted_layers
from lorgnette.lora.layers.parameter import LoRAParameter
from lorgnette.lora.load_report import LoadReport
from lorgnette.lora.state import (
    IN_PROJ,
    base_tensors,
    drifted_buffers,
    from_peft,
    get_lora_state_dict,
    plain_state,
    trained_tensors,
)
from lorgnette.lora.targets import Target
from lorgnette.lora.wrappers import on_unwrapped, plain_name


@on_unwrapped
def save_adapter(
    model: nn.Module,
    folder: str | os.PathLike[str],
    config: LoRAConfig | None = None,
    extra: Mapping[str, Any] | None = None,
    *,
    base: Fingerprint | None = None,
    files: Mapping[str, str | bytes] | None = None,
) -> Path:
    """Write the adapter of a model. A killed save leaves all of the old files or all of the new ones.

    Args:
        model: with adapters.
        folder: made if need be; other files in it stay.
        config: how the adapter was asked for, to be kept as information.
        extra: anything JSON can hold, to be kept and given back by `load_adapter` and `adapter_info`.
        base: fingerprint of the base, where it was taken before a cast; otherwise it is taken now.
        files: further files (name -> contents, text or bytes) of this adapter, replaced together with it.

    Returns:
        The folder.

    Raises:
        ValueError: the model has no adapter, or the folder cannot be written to.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ValueError(f"save_adapter: {type(model).__name__} has no adapter; inject_lora comes first")
    if away := [name for name, layer in layers.items() if layer.lora_A.is_meta]:
        raise ValueError(f"save_adapter: the adapter of {away[0]!r} has no values (it is on the meta device)")
    warn_of("save_adapter", get_lora_state_dict(model))
    if moved := drifted_buffers(model):
        warnings.warn(
            f"save_adapter: {next(iter(moved))!r} of the frozen base and {len(moved) - 1} more moved in training;"
            " they are kept in the adapter",
            stacklevel=3,
        )
    tensors = {key: tensor.cpu().contiguous().clone() for key, tensor in to_peft(model).items()}
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    description = peft_config(model)
    manifest = {
        "format_version": FORMAT_VERSION,
        "peft": description["peft_type"] != OWN_TYPE,
        "weights": hash_bytes(weights),
        "layers": {name: _describe(layer) for name, layer in layers.items()},
        "trained": sorted(trained_tensors(model)),
        "config": None if config is None else asdict(config),
        "extra": dict(extra or {}),
        "base": asdict(base or fingerprint(model)),
    }
    if base is None and (other := {n: kind for n, kind in base_dtypes(model).items() if kind != "float32"}):
        manifest["base_dtypes"] = other
    try:
        texts = {PEFT_CONFIG: json.dumps(description, indent=2), MANIFEST: json.dumps(manifest, indent=2)}
    except TypeError as error:
        raise ValueError(f"save_adapter: extra holds what JSON cannot ({error})") from None
    contents = {**texts, **(files or {})}
    replace_files(
        folder, {WEIGHTS: weights} | {name: c if isinstance(c, bytes) else c.encode() for name, c in contents.items()}
    )
    return Path(folder)


@on_unwrapped
def load_adapter(
    model: nn.Module,
    folder: str | os.PathLike[str],
    strict: bool = True,
    *,
    check_base: bool = True,
    base: Fingerprint | None = None,
) -> LoadReport:
    """Load an adapter that Lorgnette or PEFT wrote; a model without adapters is injected first.

    Everything is checked before the model is touched. Of pickles, `adapter_model.bin` alone is read, and nothing in it
    is run.

    Args:
        model: the base the adapter was made for, or the same with adapters on the same layers.
        folder: as written by `save_adapter` or PEFT's `save_pretrained`; or the folder of a run.
        strict: False takes what fits, whatever the base, and reports the rest.
        check_base: False accepts another base, and still asks that every tensor has its place.
        base: fingerprint of the model, where it was taken before a cast; otherwise it is taken now.

    Returns:
        What was loaded, missing, unexpected or mismatched; how the base differs; the extras.

    Raises:
        FileNotFoundError: there is no adapter in the folder.
        ValueError: the files are damaged or do not fit the model; one line says what is wrong.
    """
    folder = adapter_folder(folder)
    manifest = adapter_info(folder)
    state = read_weights(model, folder, manifest.get("weights"))
    state = plain_state(model, state)
    title = type(model).__name__
    try:
        described = current_file(folder, PEFT_CONFIG)
        config = read_json(described) if described.is_file() or not manifest else None
        raw: dict[str, tuple[str, str]] = {}
        if isinstance(config, dict) and config.get("target_parameters"):
            state, raw = unwrap(model, config["target_parameters"], state)
        if manifest:
            targets = _described_targets(model, manifest)
        else:
            targets = _targets_from_peft(model, config, state, raw)
            state = biases_folded(model, targets, state)
            targets, state = with_starts(model, config or {}, targets, state)
        state = unpacked(state, targets)
        difference = None
        if manifest:
            skip = {plain_name(model, name) for name in manifest["trained"]}
            made_for = Fingerprint(**manifest["base"])
            tensors = {plain_name(model, name): value for name, value in made_for.tensors.items()}
            made_for = replace(made_for, tensors=tensors)
            if base is not None:
                difference = made_for.difference(base, skip)
            else:
                saved_as = {plain_name(model, name): kind for name, kind in manifest.get("base_dtypes", {}).items()}
                difference = difference_but_for_dtype(made_for, model, skip, saved_as)
    except ValueError as error:
        raise ValueError(f"the adapter in {folder} cannot be used: {error}") from None
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{current_file(folder, MANIFEST)} is damaged ({error!r})") from None
    if difference and strict and check_base:
        raise ValueError(f"the adapter in {folder} is for another base than this {title}: {difference}")

    report = load_onto(model, targets, state, strict, source=f"the adapter in {folder}")
    return replace(report, base=difference, extra=manifest.get("extra") or {})


def _described_targets(model: nn.Module, manifest: Mapping[str, Any]) -> dict[str, Target]:
    layers = {plain_name(model, name): settings for name, settings in manifest["layers"].items()}
    return {name: _described_target(name, dict(settings)) for name, settings in layers.items()}


def _targets_from_peft(
    model: nn.Module, config: Any, state: Mapping[str, Tensor], raw: Mapping[str, tuple[str, str]]
) -> dict[str, Target]:
    suffix = f".{LORA_TENSORS[0]}"
    theirs = peft_names(model)
    tensors = dict(from_peft(key, tensor, {name + suffix for name in theirs}) for key, tensor in state.items())
    ranks = {name.removesuffix(suffix): tensor.shape[0] for name, tensor in tensors.items() if name.endswith(suffix)}
    ranks |= {name: tensors[name + suffix].shape[-2] for name in raw}
    if not ranks:
        raise ValueError(f"{WEIGHTS} holds no {LORA_TENSORS[0]}")
    targets = {}
    modules = dict(model.named_modules())
    chosen = settings_from_peft(config, ranks, theirs, raw)
    if lost := lost_layer(model, config, {*ranks, *(theirs.get(name, name) for name in ranks)}):
        raise ValueError(f"{WEIGHTS} holds nothing for {lost!r}, which {PEFT_CONFIG} names: it is incomplete")
    if config.get("bias", "none") != "none":
        biases = {f"{name}.bias" for name in ranks} & base_tensors(model).keys()
        if absent := sorted(biases - tensors.keys()):
            raise ValueError(f"bias = {config['bias']!r}, and {WEIGHTS} lacks {absent[0]!r}: it is incomplete")
    for name, settings in chosen.items():
        if name in raw:
            owner, parameter = raw[name]
            targets[name] = Target(owner, settings, None if name == owner else parameter)
            continue
        layer = modules.get(name)
        if isinstance(layer, _ConvNd) and layer.padding_mode != "zeros" and any(layer._reversed_padding_repeated_twice):
            raise ValueError(
                f"PEFT trained {name!r} with zeros around its low-rank path, and the layer pads by"
                f" {layer.padding_mode!r}: here the adapter would mean something else"
            )
        inside = name.endswith(f".{IN_PROJ}")
        targets[name] = Target(theirs[name], settings, "in_proj_weight") if inside else Target(name, settings)
    return targets


def _described_target(name: str, settings: dict[str, Any]) -> Target:
    parameter, rows = settings.pop("parameter", None), settings.pop("rows", None)
    if parameter is None:
        return Target(name, LoRAConfig(**settings))
    if not isinstance(parameter, str) or not (rows is None or [type(row) for row in rows] == [int, int]):
        raise TypeError(f"{name}: {parameter!r}, rows {rows!r}")
    return Target(name.rpartition(".")[0], LoRAConfig(**settings), parameter, rows and (rows[0], rows[1]))


def _describe(adapter: LowRank) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "r": adapter.r,
        "lora_alpha": adapter.lora_alpha,
        "lora_dropout": adapter.lora_dropout,
        "use_rslora": adapter.use_rslora,
    }
    if adapter.lora_A.dtype not in (torch.float32, torch.float64):
        settings["lora_dtype"] = str(adapter.lora_A.dtype).removeprefix("torch.")
    settings |= adapter.lora_method.settings()
    if adapter.lora_B.requires_grad and not adapter.lora_A.requires_grad:
        settings["freeze_lora_A"] = True
    if isinstance(adapter, LoRAParameter):
        settings |= {"parameter": adapter.parameter, "rows": adapter.rows}
    return settings
