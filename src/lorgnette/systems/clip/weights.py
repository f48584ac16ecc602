"""Where weights come from: this package, folders and weight files of other programs, the Hugging Face cache."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lorgnette.common.files import read_json
from lorgnette.common.tensors import check_state, float_state, read_tensors
from lorgnette.lora import adapter_folder
from lorgnette.systems.clip.layouts import Activation, activation_of, deduced, renamed, with_activation
from lorgnette.systems.clip.model import ARCHITECTURES, CLIPClassifier, TextHead, linear_head, random_head
from lorgnette.systems.clip.preprocess import PUBLISHED, Normalisation
from lorgnette.systems.clip.recipe import Data, Model
from lorgnette.systems.clip.tokens import Tokenizer, small_rules, small_vocabulary

SHIPPED = Path(__file__).parent / "base"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
NOT_WEIGHTS = re.compile(r"(vision|text)_model\.embeddings\.position_ids")  # old checkpoints hold them


@dataclass(frozen=True)
class Source:
    """What is known of a CLIP before it is built."""

    name: str
    config: dict[str, Any]
    tokenizer: Tokenizer | None = None
    normalisation: Normalisation = PUBLISHED
    weights: Path | None = None


def load_base(settings: Model, data: Data, classes: tuple[str, ...]) -> tuple[CLIPClassifier, Source]:
    """The CLIP of the settings with its base weights and a head for the classes, and where it comes from.

    Raises:
        ValueError: weights or settings that do not fit, in one line.
        FileNotFoundError: there is no such base; one line says how to get it.
    """
    source = find_source(settings.base, settings.architecture)
    model = CLIPClassifier(source.config)
    kept_head: dict[str, Tensor] = {}
    if source.weights is not None:
        kept_head = _load(model, float_state(read_tensors(source.weights), str(source.weights)), str(source.weights))
    else:  # as OpenAI's code does; transformers' positions are too weak to learn from soon
        places = model.vision_model.get_parameter("embeddings.position_embedding.weight")
        nn.init.normal_(places, std=places.shape[1] ** -0.5)
    if (data.root or data.preset) and data.image_size != model.image_size:
        raise ValueError(f"data.image_size: {data.image_size} does not fit {source.name}; {model.image_size} works")
    if classes:
        model.head = make_head(model, source, settings, data, classes)
        if isinstance(model.head, nn.Linear) and _fits(kept_head, model.head):
            model.head.load_state_dict(kept_head)
    model.gradient_checkpointing(settings.gradient_checkpointing)
    return model.eval(), source


def from_upstream(
    path_or_state: str | os.PathLike[str] | Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    heads: int | None = None,
    activation: Activation | None = None,
) -> CLIPClassifier:
    """A CLIP with published weights, without a head.

    Understands folders of transformers (`config.json` beside `model.safetensors` or `pytorch_model.bin`), and weight
    files and state dicts under transformers' names or under those of OpenAI and OpenCLIP. Without a configuration,
    sizes are read off the tensors. No code in a file is run.

    Args:
        path_or_state: a folder, a file (.safetensors, .bin, .pt, .pth), or what `torch.load` would give.
        config: the content of a `config.json`; None: that of the folder, or what the tensors tell.
        heads: attention heads of the vision tower, which tensors do not tell; None: 64 channels for each.
        activation: between the layers of each MLP: 'gelu' in OpenCLIP's own models (LAION, DataComp), 'quick_gelu' in
            OpenAI's. None: that of the configuration, or of OpenAI where the checkpoint is plainly theirs.

    Returns:
        A `CLIPClassifier` in eval mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or tensors that do not fit; one line names the first that differs. Or nothing
            tells the activation.
    """
    if activation not in (None, *get_args(Activation)):
        raise ValueError(f"activation: {activation!r} is not known; {' and '.join(get_args(Activation))} are")
    if isinstance(path_or_state, Mapping):
        name, raw = "the state dict", path_or_state
    else:
        path = Path(path_or_state)
        if path.is_dir():
            config = config or _checked_config(path / "config.json")
            path = _weights_of(path)
        name, raw = str(path), read_tensors(path)
    inner = raw.get("state_dict", raw)
    state = renamed(float_state(inner, name))
    if config is None:
        settings = with_activation(deduced(state, name, heads), activation or activation_of(inner, name))
    else:
        settings = with_activation(dict(config), activation)
    model = CLIPClassifier(settings)
    _load(model, state, name)
    return model.eval()


def find_source(base: str, architecture: str = "small") -> Source:
    """Configuration, vocabulary and weight file of a base.

    Raises:
        FileNotFoundError: there is no such base; one line says how to get it.
        ValueError: what is there is damaged.
    """
    if base == "none":
        return _untrained(architecture)
    if base == "shipped":
        if not (SHIPPED / "model.safetensors").is_file():
            raise FileNotFoundError(f"model.base: no weights are shipped in {SHIPPED}; give a base, or 'none'")
        return _of_folder(SHIPPED, "the shipped CLIP")
    path = adapter_folder(Path(base).expanduser())
    if path.is_dir():
        return _of_folder(path, base)
    if path.is_file():
        raise ValueError(f"model.base: {base} is a file; give its folder, which holds a config.json as well")
    return _of_folder(cached_folder(base), base)


def cached_folder(name: str) -> Path:
    """Where the Hugging Face cache keeps a model. Nothing is downloaded.

    Raises:
        FileNotFoundError: it is not there; one line says how to get it.
    """
    from huggingface_hub import constants

    cache = Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and ".." not in name:
        folder = cache / f"models--{name.replace('/', '--')}"
        try:
            commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
        except OSError:
            commit = ""
        found = folder / "snapshots" / commit
        if re.fullmatch(r"\w+", commit) and (found / "config.json").is_file():
            return found
    raise FileNotFoundError(
        f"model.base: {name!r} is no folder, and no model in the Hugging Face cache {cache};"
        f" where there is a network, `hf download {name}` brings it there"
    )


def make_head(
    model: CLIPClassifier, source: Source, settings: Model, data: Data, classes: tuple[str, ...]
) -> nn.Module:
    """What scores the classes: see `Model.head` and `Model.head_start`.

    Raises:
        ValueError: the text tower is asked, and knows a name not, or has no vocabulary.
    """
    scale = float(model.logit_scale.detach().exp())
    dim = int(model.visual_projection.out_features)
    random = random_head(len(classes), dim, scale)
    if settings.head == "linear" and (settings.head_start == "random" or source.tokenizer is None):
        return random
    if source.tokenizer is None:
        raise ValueError(f"model.head: {source.name} has no tokenizer.json to read prompts with; 'linear' works")
    strange = source.tokenizer.unknown_words(classes)
    if strange and settings.head == "text":
        raise ValueError(
            f"data.classes: {source.name} does not know the word {strange[0]!r}; model.head linear learns any class"
        )
    tokens = prompt_tokens(source.tokenizer, data.prompts, classes)
    if settings.head == "text":
        return TextHead(tokens)
    with torch.no_grad():
        known = torch.tensor([name not in strange for name in classes])
        return linear_head(torch.where(known[:, None], model.eval().prototypes(tokens), random.weight))


def prompt_tokens(tokenizer: Tokenizer, prompts: tuple[str, ...], classes: tuple[str, ...]) -> Tensor:
    """(K, P, L): P prompts for each of K classes."""
    texts = [prompt.format(name) for name in classes for prompt in prompts]
    return tokenizer(texts).unflatten(0, (len(classes), len(prompts)))


def _fits(head: Mapping[str, Tensor], own: nn.Linear) -> bool:
    return {name: tensor.shape for name, tensor in head.items()} == {n: t.shape for n, t in own.state_dict().items()}


def _load(model: CLIPClassifier, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Load the towers strictly; the head that was kept with them is handed back."""
    head = {name.removeprefix("head."): state.pop(name) for name in list(state) if name.startswith("head.")}
    state = {name: tensor for name, tensor in state.items() if not NOT_WEIGHTS.fullmatch(name)}
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    check_state(state, own, source)
    model.load_state_dict(state, strict=False)
    return head


def _untrained(architecture: str) -> Source:
    sizes = ARCHITECTURES[architecture]
    config = {"vision_config": dict(sizes["vision"]), "text_config": dict(sizes["text"])}
    config |= {"projection_dim": sizes["projection_dim"]}
    words = len(small_vocabulary())
    if architecture != "vit-b-32":
        config["text_config"] |= {"vocab_size": words}
    config["text_config"] |= {"bos_token_id": 0, "eos_token_id": words - 1, "pad_token_id": words - 1}
    length = config["text_config"].get("max_position_embeddings", 77)
    return Source(f"an untrained {architecture}", config, Tokenizer(small_rules(), length))


def _of_folder(folder: Path, name: str) -> Source:
    config = _checked_config(folder / "config.json")
    length = int(config.get("text_config", {}).get("max_position_embeddings", 77))
    rules = _rules(folder)
    return Source(
        name,
        config,
        None if rules is None else Tokenizer(rules, length),
        _normalisation(folder / "preprocessor_config.json"),
        _weights_of(folder),
    )


def _checked_config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"model.base: {file.parent} holds no {file.name}: it is no model of transformers")
    config = read_json(file)
    if not isinstance(config, dict) or config.get("model_type", "clip") != "clip":
        kind = config.get("model_type") if isinstance(config, dict) else "table"
        raise ValueError(f"model.base: {file} describes a {kind!r}, not a 'clip'")
    return config


def _weights_of(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"model.base: {folder} holds neither {' nor '.join(WEIGHT_FILES)}")


def _rules(folder: Path) -> str | None:
    """The content of `tokenizer.json`, or what `vocab.json` and `merges.txt` come to."""
    if (folder / "tokenizer.json").is_file():
        return (folder / "tokenizer.json").read_text(encoding="utf-8")
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        from transformers import CLIPTokenizer

        return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))._tokenizer.to_str()
    return None


def _normalisation(file: Path) -> Normalisation:
    settings = read_json(file) if file.is_file() else {}
    if not isinstance(settings, dict):
        raise ValueError(f"{file} is not a table of settings")
    try:
        mean = [float(value) for value in settings.get("image_mean", PUBLISHED.mean)]
        std = [float(value) for value in settings.get("image_std", PUBLISHED.std)]
    except (TypeError, ValueError):
        raise ValueError(f"{file}: image_mean and image_std must be three numbers each") from None
    if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
        raise ValueError(f"{file}: image_mean and image_std must be three numbers each")
    return Normalisation((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def companions(model: CLIPClassifier, source: Source) -> dict[str, str]:
    """The files that make a folder of `model.safetensors` one that transformers reads: name -> content."""
    files = {"config.json": model.config.to_json_string(use_diff=False)}
    if source.tokenizer is not None:
        files["tokenizer.json"] = source.tokenizer.rules
    side = {"height": model.image_size, "width": model.image_size}
    mean, std = source.normalisation
    files["preprocessor_config.json"] = json.dumps(
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": model.image_size},
         "crop_size": side, "image_mean": mean, "image_std": std, "resample": 3, "do_convert_rgb": True,
         "do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True}, indent=1,
    )  # fmt: skip
    return files
