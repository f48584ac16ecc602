"""Bases from folders, caches and other programs, without a network and without running anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPModel

from lorgnette import build, load, lora, save
from lorgnette.systems import clip
from lorgnette.systems.clip.layouts import deduced
from lorgnette.systems.clip.model import CLIPClassifier
from lorgnette.systems.clip.weights import find_source, load_base

CLASSES = ("one", "two", "three")
SETTINGS = clip.Data(classes=CLASSES, image_size=16)
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def untrained(**model) -> clip.Recipe:
    return clip.Recipe(model=clip.Model(base="none", architecture="tiny", **model), data=SETTINGS, lora=None)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it, with our vocabulary."""
    folder = tmp_path_factory.mktemp("published")
    source = find_source("none", "tiny")
    torch.manual_seed(5)
    CLIPModel(CLIPClassifier(source.config).config).save_pretrained(folder)
    assert source.tokenizer is not None
    (folder / "tokenizer.json").write_text(source.tokenizer.rules)
    return folder


@torch.no_grad()
def test_a_folder_of_transformers_gives_what_transformers_gives(published: Path):
    theirs = CLIPModel.from_pretrained(published).eval()
    recipe = clip.Recipe(model=clip.Model(base=str(published), head="text"), data=SETTINGS, lora=None)
    task = build(recipe)
    tokens = task.source.tokenizer([f"a photo of a {name}" for name in CLASSES])
    wanted = theirs(input_ids=tokens, pixel_values=task.normalised(IMAGES)).logits_per_image
    assert torch.allclose(task.logits(IMAGES), wanted, atol=1e-5)
    linear = build(replace(recipe, model=replace(recipe.model, head="linear")))
    assert torch.allclose(linear.logits(IMAGES), wanted, atol=1e-5)  # it starts where the text tower is


def test_a_whole_model_is_a_folder_that_transformers_reads(tmp_path: Path):
    recipe = untrained()
    task = build(recipe)
    folder = save(task, recipe, tmp_path / "whole")
    loaded: Any = CLIPModel.from_pretrained(folder, output_loading_info=True)
    theirs, report = loaded
    assert not report["missing_keys"]
    assert set(report["unexpected_keys"]) == {"head.weight", "head.bias"}
    with torch.no_grad():
        features = theirs.eval().get_image_features(task.normalised(IMAGES)).pooler_output
        ours = task.model.image_features(task.normalised(IMAGES))
    assert torch.allclose(nn.functional.normalize(features, dim=-1), ours, atol=1e-6)


def test_other_classes_on_a_kept_model_get_a_new_head(tmp_path: Path):
    folder = save(build(untrained(head_start="random")), untrained(), tmp_path)
    kept = load(folder)
    same = build(clip.Recipe(model=clip.Model(base=str(folder)), data=SETTINGS, lora=None))
    assert torch.equal(same.model.head.weight, kept.model.head.weight)
    other = clip.Data(classes=("star", "ring"), image_size=16)
    assert build(clip.Recipe(model=clip.Model(base=str(folder)), data=other, lora=None)).model.head.out_features == 2


def test_the_hub_s_cache_is_read_and_nothing_is_downloaded(published: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"'someone/model' .*hf download someone/model") as refusal:
        find_source("someone/model")
    assert "\n" not in str(refusal.value)
    folder = tmp_path / "models--someone--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123\n")
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / "abc123").symlink_to(published)
    assert find_source("someone/model").weights == folder / "snapshots" / "abc123" / "model.safetensors"
    for name in ("../someone/model", "someone/../model", "/etc", "a/b/c"):
        with pytest.raises(FileNotFoundError):
            find_source(name)
    (folder / "refs" / "main").write_text("../../..")
    with pytest.raises(FileNotFoundError):
        find_source("someone/model")


def openai_names(clip_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' tensors as OpenAI's and OpenCLIP's checkpoints hold them."""
    towers = {"vision_model": "visual.transformer", "text_model": "transformer"}
    inner = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
             "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip
    outer = {
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "logit_scale": "logit_scale",
    }
    for kind in ("weight", "bias"):
        outer |= {f"vision_model.pre_layrnorm.{kind}": f"visual.ln_pre.{kind}",
                  f"vision_model.post_layernorm.{kind}": f"visual.ln_post.{kind}",
                  f"text_model.final_layer_norm.{kind}": f"ln_final.{kind}"}  # fmt: skip
    found = {}
    for name, tensor in clip_state.items():
        if name in ("visual_projection.weight", "text_projection.weight"):
            found[{"v": "visual.proj", "t": "text_projection"}[name[0]]] = tensor.T
        elif name in outer:
            found[outer[name]] = tensor
        elif ".q_proj." in name:
            rest = [clip_state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            tower, _, tail = name.partition(".encoder.layers.")
            number, kind = tail.split(".")[0], name.rpartition(".")[2]
            found[f"{towers[tower]}.resblocks.{number}.attn.in_proj_{kind}"] = torch.cat(rest)
        elif ".k_proj." not in name and ".v_proj." not in name:
            tower, _, tail = name.partition(".encoder.layers.")
            number, _, tail = tail.partition(".")
            layer, kind = tail.rsplit(".", 1)
            found[f"{towers[tower]}.resblocks.{number}.{inner[layer]}.{kind}"] = tensor
    return found


def test_openai_s_names_are_understood(published: Path):
    theirs = CLIPModel.from_pretrained(published)
    state = openai_names(theirs.state_dict())
    assert not state.keys() & theirs.state_dict().keys() - {"logit_scale"}
    config = json.loads((published / "config.json").read_text())
    model = clip.from_upstream(state | {"input_resolution": torch.tensor(16)}, config=config)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in theirs.state_dict().items())
    assert state["visual.transformer.resblocks.1.attn.in_proj_weight"].shape == (96, 32)


def test_sizes_are_read_off_the_tensors(published: Path, tmp_path: Path):
    theirs = CLIPModel.from_pretrained(published)
    found = deduced(theirs.state_dict(), heads=2)
    for tower in ("vision", "text"):
        known = theirs.config.to_dict()[f"{tower}_config"]
        same = {name for name in found[f"{tower}_config"] if found[f"{tower}_config"][name] == known[name]}
        assert same >= {"hidden_size", "intermediate_size", "num_hidden_layers"}
    save_file({f"clip.{name}": t.contiguous() for name, t in theirs.state_dict().items()}, tmp_path / "x.safetensors")
    model = clip.from_upstream(tmp_path / "x.safetensors", heads=2, activation="quick_gelu")
    with torch.no_grad():
        wanted = nn.functional.normalize(theirs.eval().get_image_features(IMAGES).pooler_output, dim=-1)
        assert torch.allclose(model.image_features(IMAGES), wanted, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_the_activation_of_a_bare_checkpoint_is_asked_for_and_never_assumed(
    activation, published: Path, tmp_path: Path
):
    config = CLIPClassifier(find_source(str(published)).config).config
    config.vision_config.hidden_act = config.text_config.hidden_act = activation
    theirs = CLIPModel(config).eval()
    wanted = nn.functional.normalize(theirs.get_image_features(IMAGES).pooler_output, dim=-1)
    bare = openai_names(theirs.state_dict())
    (tmp_path / "folder").mkdir()
    theirs.save_pretrained(tmp_path / "folder")
    save_file({name: tensor.contiguous() for name, tensor in bare.items()}, tmp_path / "bare.safetensors")
    told = {"heads": 2, "activation": activation}
    for model in (
        clip.from_upstream(bare, **told),
        clip.from_upstream({"state_dict": bare}, **told),
        clip.from_upstream(tmp_path / "bare.safetensors", **told),
        clip.from_upstream(theirs.state_dict(), **told),
        clip.from_upstream(bare, config=config.to_dict()),
        clip.from_upstream(tmp_path / "folder"),
    ):
        assert torch.allclose(model.image_features(IMAGES), wanted, atol=1e-6)
        assert {model.config.vision_config.hidden_act, model.config.text_config.hidden_act} == {activation}
    for untold in (bare, theirs.state_dict(), tmp_path / "bare.safetensors", {"state_dict": bare}):
        with pytest.raises(ValueError, match="activation='gelu'"):
            clip.from_upstream(untold, heads=2)
    openai = clip.from_upstream(bare | {"input_resolution": torch.tensor(16)}, heads=2)
    assert openai.config.vision_config.hidden_act == "quick_gelu"
    other = "gelu" if activation == "quick_gelu" else "quick_gelu"
    overruled = clip.from_upstream(tmp_path / "folder", activation=other)
    assert overruled.config.text_config.hidden_act == other
    assert not torch.allclose(overruled.image_features(IMAGES), wanted, atol=1e-6)
    with pytest.raises(ValueError, match="activation: 'relu' is not known"):
        clip.from_upstream(bare, activation="relu")  # type: ignore[arg-type]


def test_what_does_not_fit_is_said_in_one_line(published: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        clip.from_upstream(tmp_path)
    state = CLIPModel.from_pretrained(published).state_dict()
    with pytest.raises(ValueError, match="no checkpoint of a CLIP"):
        clip.from_upstream({"weight": torch.zeros(2)})
    config = json.loads((published / "config.json").read_text())
    del state["visual_projection.weight"]
    with pytest.raises(ValueError, match=r"lacks 'visual_projection\.weight'"):
        clip.from_upstream(state, config=config)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="'bert', not a 'clip'"):
        find_source(str(tmp_path))
    with pytest.raises(ValueError, match=r"data\.image_size: 24 does not fit"):
        load_base(untrained().model, replace(SETTINGS, preset="digits", classes=(), image_size=24), ("a", "b"))
    with pytest.raises(ValueError, match="does not know the word 'axolotl'"):
        build(replace(untrained(head="text"), data=replace(SETTINGS, classes=("axolotl", "one"))))


def test_an_unknown_word_starts_at_random_and_a_known_one_where_the_text_is():
    task = build(replace(untrained(), data=replace(SETTINGS, classes=("one", "axolotl", "newt"))))
    known = build(untrained())
    assert torch.equal(task.model.head.weight[0], known.model.head.weight[0])
    assert not torch.equal(task.model.head.weight[1], task.model.head.weight[2])


def test_prompts_are_averaged_and_longer_ones_change_nothing(published: Path):
    tokenizer = find_source(str(published)).tokenizer
    assert tokenizer is not None
    short, padded = tokenizer(["a star"]), tokenizer(["a star", "a photo of a red star on blue"])
    assert short.shape[1] < padded.shape[1]
    model = clip.from_upstream(published)
    with torch.no_grad():
        assert torch.allclose(model.text_features(short)[0], model.text_features(padded)[0], atol=1e-6)
        both = model.prototypes(tokenizer(["a star", "a photo of a star"])[None])
        mean = model.text_features(tokenizer(["a star", "a photo of a star"])).mean(0)
    assert torch.allclose(both[0], mean / mean.norm(), atol=1e-6)
    assert tokenizer(["a " * 60]).shape[1] == tokenizer.max_length


@pytest.mark.parametrize(("size", "wanted"), [("small", 1_179_648), ("medium", 2_359_296), ("large", 4_718_592)])
def test_the_presets_have_these_many_weights_on_vit_b_32(size, wanted: int):
    from transformers.models.clip.configuration_clip import CLIPConfig

    with torch.device("meta"):
        model = CLIPClassifier(CLIPConfig(), nn.Linear(512, 10))
    assert clip.adapter_preset(size).scaling == 2
    plan = lora.plan(model, clip.adapter_preset(size))
    assert plan.parameters == wanted or plan.parameters == wanted + 5_130
    both = lora.plan(model, clip.adapter_preset(size, towers=("vision", "text"), train_head=False))
    assert both.parameters == wanted + wanted * 2 // 3  # the text tower has two thirds of the width
    with pytest.raises(ValueError, match="towers"):
        clip.adapter_preset(size, towers=())


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        task = build(untrained(gradient_checkpointing=checkpointing)).train()
        task({"image": IMAGES, "label": torch.tensor([0, 1])})["loss"].backward()
        gradients.append([p.grad.clone() for p in task.model.vision_model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # that PEFT asks
def test_peft_reads_an_adapter_onto_transformers_own_clip(published: Path, tmp_path: Path):
    from peft import PeftModel

    adapter = clip.adapter_preset("small", towers=("vision", "text"), train_head=False)
    recipe = clip.Recipe(model=clip.Model(base=str(published), head="text"), data=SETTINGS, lora=adapter)
    task = build(recipe)
    with torch.no_grad():
        for parameter in lora.get_lora_params(task.model):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    folder = save(task, recipe, tmp_path / "lens")
    theirs = PeftModel.from_pretrained(CLIPModel.from_pretrained(published), folder).eval()
    tokens = task.source.tokenizer([f"a photo of a {name}" for name in CLASSES])
    with torch.no_grad():
        wanted = theirs(input_ids=tokens, pixel_values=task.normalised(IMAGES)).logits_per_image
        assert torch.allclose(task.logits(IMAGES), wanted, atol=1e-4)
        with lora.disabled(task.model):
            assert not torch.allclose(task.logits(IMAGES), wanted, atol=1e-2)
