"""The original names of the federated CLIP module: every example of its page, and what each method promises."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers.models.clip.configuration_clip import CLIPConfig
from transformers.models.clip.modeling_clip import CLIPModel

from lorgnette import lora
from lorgnette.compat.federated_clip import (
    CLIPLoRAWrapper,
    FederatedCLIPModel,
    LoRAConfig,
    LoRAConfigManager,
    LoRAModelManager,
    Parameters,
    create_model,
    quick_clip_lora,
)
from lorgnette.compat.federated_clip.test_lora import main as self_check
from lorgnette.systems.clip.model import CLIPClassifier
from lorgnette.systems.clip.weights import find_source

NAME = "openai/clip-vit-base-patch32"
PAGE = Path(__file__).with_name("federated_clip_examples.md").read_text(encoding="utf-8")
HOME = "lorgnette.compat.federated_clip"
IMPORTS = {
    "from lora import": f"from {HOME} import",
    "from models.clip import": f"from {HOME}.model import",
    "from lora.clip_wrapper import": f"from {HOME}.clip_wrapper import",
    "from lora.lora_config import": f"from {HOME}.lora_config import",
    "from lora.factory import": f"from {HOME}.factory import",
}
TINY: dict[str, Any] = {"model_name": "none", "num_classes": 3, "architecture": "tiny"}
IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def put_into_cache(cache: Path, config: CLIPConfig) -> None:
    """A random CLIP under the name that the page uses, as the Hugging Face cache keeps models."""
    folder = cache / f"models--{NAME.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123456789abcdef")
    torch.manual_seed(0)
    CLIPModel(config).half().save_pretrained(folder / "snapshots" / "0123456789abcdef")


def run_the_page(side: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Every Python block in turn, with its import lines changed and nothing else."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {
        "__name__": "page",
        "data": torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1)),
        "labels": torch.tensor([0, 3, 9, 1]),
    }
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        for theirs, ours in IMPORTS.items():
            block = block.replace(theirs, ours)
        exec(compile(block, "page", "exec"), names)
    return names


def check_the_page(names: dict[str, Any], vision_weights: dict[int, int], head: int) -> None:
    assert len(names["params"]) > 20
    assert np.isfinite(names["loss"])
    assert {"loss", "accuracy", "ece"} <= names["metrics"].keys()
    assert names["info"]["num_classes"] == 10
    assert names["info"]["parameters"]["lora"] == vision_weights[16]
    assert names["info"]["parameters"]["head"] == head
    assert (
        names["loaded_config"]
        == names["small_config"]
        == LoRAConfig(8, 16, 0.1, list("q_proj k_proj v_proj fc1 fc2".split()))
    )
    table = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
    section = {name: SimpleNamespace(**values) for name, values in table.items()}
    model = names["create_model"](SimpleNamespace(**section))  # the page's own function
    assert model.trainable_parameters()["lora"] == vision_weights[16]


def test_every_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    config = CLIPClassifier(find_source("none", "tiny").config).config
    put_into_cache(tmp_path / "hub", config)
    names = run_the_page(16, tmp_path, monkeypatch)
    check_the_page(names, {16: 2 * 16 * (6 * 32 + 2 * (32 + 64))}, 17 * 10)
    assert "lora 12,288 " in capsys.readouterr().out


@pytest.mark.slow
def test_every_example_of_the_page_runs_at_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    put_into_cache(tmp_path / "hub", CLIPConfig())
    names = run_the_page(224, tmp_path, monkeypatch)
    check_the_page(names, {16: 2_359_296}, 5_130)
    assert "lora 2,359,296 (1.56 % of 151,282,443); head 5,130" in capsys.readouterr().out
    for r, wanted in {8: 1_179_648, 32: 4_718_592}.items():
        found = quick_clip_lora(NAME, num_classes=10, lora_r=r).trainable_parameters()
        assert found == {"lora": wanted, "head": 5_130, "total": 151_277_313 + 5_130}


def test_a_missing_model_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"hf download {NAME}") as refusal:
        quick_clip_lora(model_name=NAME, num_classes=10)
    assert "\n" not in str(refusal.value)


def test_the_yaml_of_the_page_makes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    shipped = Path(__file__).parents[2] / "configs" / "clip_lora.yaml"
    assert yaml.safe_load(shipped.read_text()) == yaml.safe_load(text)
    table = yaml.safe_load(text)
    table["model"] |= TINY
    (tmp_path / "clip.yaml").write_text(yaml.safe_dump(table))
    model = create_model(tmp_path / "clip.yaml")
    assert isinstance(model, CLIPLoRAWrapper)
    assert model.lora_config.r == 16
    assert model.is_applied
    table["lora"]["enabled"] = False
    assert isinstance(create_model(table), FederatedCLIPModel)
    for section, key, match in [
        ("model", "modle_name", "did you mean 'model_name'"),
        ("lora", "rr", "no setting 'rr'"),
    ]:
        wrong = {"model": dict(table["model"]), "lora": {"enabled": True}}
        wrong[section][key] = 1
        with pytest.raises(ValueError, match=match):
            create_model(wrong)


def test_what_is_sent_is_named_and_a_list_as_well():
    model = quick_clip_lora(**TINY, lora_r=2)
    parameters = model.get_parameters()
    assert isinstance(parameters, list)
    assert len(parameters) == len(parameters.names) == 2 * 10 + 2
    assert parameters["head.bias"] is parameters[parameters.names.index("head.bias")]
    assert "head.bias" in parameters
    assert dict(parameters).keys() == set(parameters.names)
    assert [a.shape for a in parameters] == [a.shape for a in dict(parameters).values()]
    assert parameters.schema == quick_clip_lora(**TINY, lora_r=2).get_parameters().schema
    assert parameters.schema != quick_clip_lora(**TINY, lora_r=3).get_parameters().schema
    sent = [array.copy() for array in parameters]
    model.train_step(IMAGES, LABELS)
    assert all((a == b).all() for a, b in zip(parameters, sent, strict=True))  # copies


@pytest.mark.parametrize("as_what", [list, dict, lambda p: p, lambda p: [a.astype(np.float64) for a in p]])
def test_what_one_client_learnt_another_takes_over(as_what):
    one, two = quick_clip_lora(**TINY, lora_r=2), quick_clip_lora(**TINY, lora_r=2)
    for _ in range(3):
        one.train_step(IMAGES, LABELS)
    assert not torch.equal(one.eval()(IMAGES), two.eval()(IMAGES))
    two.set_parameters(as_what(one.get_parameters()))
    assert torch.equal(one.eval()(IMAGES), two.eval()(IMAGES))


def test_without_lora_all_weights_are_sent():
    model = FederatedCLIPModel(**TINY)
    before = {name: tensor.clone() for name, tensor in model.classifier.state_dict().items()}
    assert set(model.get_parameters().names) == before.keys()
    wrapper = CLIPLoRAWrapper(model, LoRAConfig.for_clip_model(r=2, lora_alpha=4))
    wrapper.apply_lora_to_federated_model()
    for _ in range(3):
        wrapper.train_step(IMAGES, LABELS)
    wrapper.disable_lora_layers()
    off = wrapper.get_parameters()
    assert set(off.names) == before.keys()
    assert all((array == before[name].numpy()).all() for name, array in off.items() if not name.startswith("head"))
    wrapper.enable_lora_layers()
    assert len(wrapper.get_parameters()) == 22
    wrapper.lora_config.save_only_trainable = False
    assert len(wrapper.get_parameters()) == len(before) + 20


def test_wrong_parameters_are_refused_and_nothing_is_copied():
    model = quick_clip_lora(**TINY, lora_r=2)
    right = model.get_parameters()
    before = model(IMAGES)
    named = {name: array + 1 for name, array in right.items()}
    broken = named["head.weight"].copy()
    broken[0, 0] = np.nan
    for wrong, match in [
        (list(right)[:-1], "21 arrays were given; the model has 22"),
        ({name: a for name, a in named.items() if name != "head.bias"}, "'head.bias' is missing"),
        (named | {"head.other": np.zeros(3)}, "has no 'head.other'"),
        (named | {"head.bias": np.zeros(4)}, "'head.bias' has shape"),
        (named | {"head.weight": broken}, "no finite numbers"),
        (list(reversed(right)), "has shape"),
    ]:
        with pytest.raises(ValueError, match=match):
            model.set_parameters(wrong)
    assert torch.equal(model(IMAGES), before)


def test_an_array_in_the_place_of_another_is_refused_in_a_plain_list_too():
    """The mean of two clients, as the original's server takes it: a list of arrays, which know whose they are."""
    model, other = quick_clip_lora(**TINY, lora_r=2), quick_clip_lora(**TINY, lora_r=2)
    other.train_step(IMAGES, LABELS)
    names = model.get_parameters().names
    mean = [(x + y) / 2 for x, y in zip(model.get_parameters(), other.get_parameters(), strict=True)]
    q, k = (next(i for i, n in enumerate(names) if f"{part}_proj.lora_A" in n) for part in "qk")
    assert mean[q].shape == mean[k].shape
    swapped = list(mean)
    swapped[q], swapped[k] = mean[k], mean[q]
    before = [array.copy() for array in model.get_parameters()]
    with pytest.raises(ValueError, match=r"q_proj\.lora_A' stands in the place of '.*k_proj\.lora_A"):
        model.set_parameters(swapped)
    assert all((a == b).all() for a, b in zip(model.get_parameters(), before, strict=True))
    model.set_parameters(mean)
    assert all(np.allclose(a, b) for a, b in zip(model.get_parameters(), mean, strict=True))
    with pytest.warns(UserWarning, match="their order is trusted"):
        model.set_parameters([np.asarray(array) for array in mean])


def test_parameters_of_another_schema_are_refused():
    model = quick_clip_lora(**TINY, lora_r=2)
    right = model.get_parameters()
    doubled = Parameters({name: array.astype(np.float64) for name, array in right.items()})
    with pytest.raises(ValueError, match=f"the schema {doubled.schema} is not the model's, {right.schema}"):
        model.set_parameters(doubled)


def test_switching_and_merging_give_what_they_promise():
    model = FederatedCLIPModel(**TINY)
    wrapper = CLIPLoRAWrapper(model, LoRAConfig.for_clip_model(r=2, lora_alpha=4))
    base = model.eval()(IMAGES)
    assert wrapper.apply_lora_to_federated_model() is model
    assert torch.equal(model.eval()(IMAGES), base)
    with pytest.raises(ValueError, match="has adapters already"):
        wrapper.apply_lora_to_federated_model()
    for _ in range(5):
        wrapper.train_step(IMAGES, LABELS)
    adapted = wrapper.eval()(IMAGES)
    head = {name: tensor.clone() for name, tensor in model.classifier.head.state_dict().items()}
    wrapper.disable_lora_layers()
    off = wrapper.eval()(IMAGES)
    assert not torch.equal(off, adapted)
    wrapper.enable_lora_layers()
    assert torch.equal(wrapper.eval()(IMAGES), adapted)
    merged = wrapper.merge_and_unload()
    assert merged is model
    assert not lora.is_adapted(merged)
    assert torch.allclose(merged.eval()(IMAGES), adapted, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(merged.classifier.head.state_dict()[name], tensor) for name, tensor in head.items())
    wrapper.enable_lora_layers()  # puts new ones in
    assert wrapper.is_applied


def test_two_clients_start_alike():
    one, two = (quick_clip_lora(**TINY, lora_r=2).get_parameters() for _ in range(2))
    assert all((a == b).all() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(
    ("components", "adapted", "head_is_whole"),
    [
        (["encoder"], {"vision_model"}, True),
        (["text"], {"text_model"}, True),
        (["encoder", "text"], {"vision_model", "text_model"}, True),
        (["encoder", "classifier"], {"vision_model", "head"}, False),
        (["classifier"], {"head"}, False),
    ],
)
def test_components_get_what_is_theirs(components: list[str], adapted: set[str], head_is_whole: bool):
    wrapper = CLIPLoRAWrapper(FederatedCLIPModel(**TINY), LoRAConfig(r=2), components)
    model = wrapper.apply_lora_to_federated_model().classifier
    assert {name.partition(".")[0] for name in lora.adapted_layers(model)} == adapted
    assert model.head.weight.requires_grad is head_is_whole
    with pytest.raises(ValueError, match="target_components: 'encodr'"):
        CLIPLoRAWrapper(FederatedCLIPModel(**TINY), target_components=["encodr"])


def test_a_head_s_own_settings():
    model = FederatedCLIPModel(**TINY)
    wrapper = CLIPLoRAWrapper(model, LoRAConfig.for_classification_head(r=2), ["classifier"])
    wrapper.apply_lora_to_federated_model()
    before, frozen = wrapper.eval()(IMAGES), model.classifier.head.weight.clone()
    wrapper.train_step(IMAGES, LABELS)
    assert not torch.equal(wrapper.eval()(IMAGES), before)
    assert torch.equal(model.classifier.head.weight, frozen)
    assert wrapper.get_parameters().names == ("head.lora_A", "head.lora_B")
    assert wrapper.trainable_parameters() == {"lora": 2 * (16 + 3), "head": 0, "total": 31_156}


def test_gradient_checkpointing_changes_no_step():
    losses = []
    for checkpointing in (False, True):
        model = quick_clip_lora(**TINY, lora_r=2)
        for layer in lora.adapted_layers(model.federated_model.classifier).values():
            layer.lora_dropout = 0.0
        if checkpointing:
            model.enable_gradient_checkpointing()
        tower = model.federated_model.classifier.vision_model
        assert tower.encoder.layers[0].gradient_checkpointing is checkpointing
        losses.append([model.train_step(IMAGES, LABELS) for _ in range(3)])
        model.disable_gradient_checkpointing()
        assert not tower.encoder.layers[0].gradient_checkpointing
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_kept_models_come_back_strictly(tmp_path: Path):
    manager = LoRAModelManager(tmp_path)
    model = quick_clip_lora(**TINY, lora_r=2)
    model.train_step(IMAGES, LABELS)
    manager.save_model(model, "mine", metrics={"accuracy": 0.5})
    assert manager.list_models() == ["mine"]
    info = manager.get_model_info("mine")
    assert info["metrics"] == {"accuracy": 0.5}
    assert info["ranks"] == [2]
    assert info["bytes"] < 60_000
    fresh = CLIPLoRAWrapper(FederatedCLIPModel(**TINY))
    manager.load_model("mine", fresh)
    assert torch.equal(fresh.eval()(IMAGES), model.eval()(IMAGES))
    other_base = CLIPLoRAWrapper(FederatedCLIPModel(**TINY | {"seed": 1}))
    with pytest.raises(ValueError, match="is for another base"):
        manager.load_model("mine", other_base)
    with pytest.raises(ValueError, match="does not fit"):
        manager.load_model("mine", quick_clip_lora(**TINY, lora_r=4))
    with pytest.raises(FileNotFoundError, match="no model 'mind'"):
        manager.get_model_info("mind")
    for name in ("../mine", "", "a/b", ".hidden"):
        with pytest.raises(ValueError, match="does not work"):
            manager.save_model(model, name)
    manager.delete_model("mine")
    assert manager.list_models() == []


def test_what_is_known_of_a_kept_model_is_what_its_adapters_are(tmp_path: Path):
    manager = LoRAModelManager(tmp_path)
    model = quick_clip_lora(**TINY, lora_r=4)
    # The page's own lines on its own model: it has adapters in the encoder, and none in the classifier.
    wrapper = CLIPLoRAWrapper(federated_clip_model=model, target_components=["encoder", "classifier"])
    assert not wrapper.is_applied
    assert wrapper.lora_config.r == 4
    manager.save_model(wrapper, "x")
    info = manager.get_model_info("x")
    assert (info["target_components"], info["lora_config"]["r"], info["ranks"]) == (["encoder"], 4, [4])
    wrapper.lora_config.r = 99  # changes nothing that is there
    manager.save_model(wrapper, "x")
    assert manager.get_model_info("x")["lora_config"]["r"] == 4
    wrapper.lora_config.r = 4

    before = wrapper.eval()(IMAGES)
    wrapper.apply_lora_to_federated_model()  # puts in what is missing
    assert wrapper.is_applied
    assert torch.equal(wrapper.eval()(IMAGES), before)
    adapted = {name.partition(".")[0] for name in lora.adapted_layers(model.federated_model.classifier)}
    assert adapted == {"vision_model", "head"}
    manager.save_model(wrapper, "both")
    assert manager.get_model_info("both")["target_components"] == ["encoder", "classifier"]

    with pytest.raises(
        ValueError, match=r"^lora_config: the model has adapters already, of r 4, .* merge_and_unload first$"
    ):
        CLIPLoRAWrapper(model, LoRAConfig.for_clip_model(r=8))
    by_hand = FederatedCLIPModel(**TINY)
    lora.inject_lora(by_hand.classifier, target_modules=["q_proj"])
    with pytest.raises(ValueError, match="has adapters that no CLIPLoRAWrapper put in"):
        CLIPLoRAWrapper(by_hand)

    fresh = CLIPLoRAWrapper(FederatedCLIPModel(**TINY), target_components=["text"])  # r 16 until something is loaded
    manager.load_model("both", fresh)
    assert (fresh.lora_config.r, fresh.target_components, fresh.is_applied) == (4, ("encoder", "classifier"), True)
    manager.save_model(fresh, "again")
    assert manager.get_model_info("again")["lora_config"]["r"] == 4
    fresh.merge_and_unload()
    assert CLIPLoRAWrapper(fresh.federated_model, LoRAConfig.for_clip_model(r=8)).lora_config.r == 8


def test_a_manifest_that_claimed_too_much_is_read_as_its_layers_are(tmp_path: Path):
    manager = LoRAModelManager(tmp_path)
    manager.save_model(quick_clip_lora(**TINY, lora_r=4), "old")
    file = tmp_path / "old" / "lorgnette.json"
    manifest = json.loads(file.read_text())
    manifest["extra"] |= {"target_components": ["encoder", "classifier"]}
    manifest["extra"]["lora_config"]["r"] = 16
    file.write_text(json.dumps(manifest))
    info = manager.get_model_info("old")
    assert (info["target_components"], info["lora_config"]["r"]) == (["encoder"], 4)


def test_what_is_saved_follows_save_only_trainable(tmp_path: Path):
    manager = LoRAModelManager(tmp_path)
    model = quick_clip_lora(**TINY, lora_r=4)
    model.train_step(IMAGES, LABELS)
    small = sum(file.stat().st_size for file in manager.save_model(model, "x").iterdir())
    model.lora_config.save_only_trainable = False
    folder = manager.save_model(model, "y")
    assert sum(file.stat().st_size for file in folder.iterdir()) > small + 4 * 31_000
    assert manager.get_model_info("y")["lora_config"]["save_only_trainable"] is False
    other = CLIPLoRAWrapper(FederatedCLIPModel(**TINY | {"seed": 1}))
    with pytest.raises(ValueError, match="is for another base"):
        manager.load_model("x", other)
    manager.load_model("y", other)
    assert torch.equal(other.eval()(IMAGES), model.eval()(IMAGES))
    assert len(other.get_parameters()) == len(model.get_parameters()) > 22
    assert not other.federated_model.classifier.vision_model.encoder.layers[0].mlp.fc1.weight.requires_grad
    wider = quick_clip_lora(**TINY | {"seed": 1}, lora_r=2)
    before = wider.eval()(IMAGES)
    with pytest.raises(ValueError, match="does not fit"):
        manager.load_model("y", wider)
    assert torch.equal(wider.eval()(IMAGES), before)
    model.lora_config.save_only_trainable = True
    manager.save_model(model, "y")
    assert not (folder / "model.safetensors").exists()


def test_the_files_that_the_page_lists_can_be_imported():
    from lorgnette.compat.federated_clip import config

    assert (config.LoRAConfig, config.LoRAConfigManager) == (LoRAConfig, LoRAConfigManager)


def test_kept_settings_come_back(tmp_path: Path):
    manager = LoRAConfigManager(tmp_path)
    config = LoRAConfig.for_clip_model(r=4)
    config.save_only_trainable = False
    manager.save_config(config, "clip")
    manager.save_config(LoRAConfig.for_classification_head(), "head")
    assert manager.list_configs() == ["clip", "head"]
    assert manager.load_config("clip") == config
    assert manager.compare_configs("clip", "head").keys() == {
        "r",
        "lora_alpha",
        "target_modules",
        "save_only_trainable",
    }
    with pytest.raises(FileNotFoundError, match="no settings 'clop'"):
        manager.load_config("clop")
    (tmp_path / "old.yaml").write_text("format_version: 1\nrank: 3\n")
    with pytest.raises(ValueError, match="no setting 'rank'"):
        manager.load_config("old")
    manager.delete_config("clip")
    assert manager.list_configs() == ["head", "old"]


def test_the_original_s_own_check_passes(capsys):
    assert self_check() == 0
    assert "FAILED" not in capsys.readouterr().out


def test_parameters_are_picklable_lists_for_older_code():
    parameters = Parameters({"b": np.zeros(2), "a": np.ones(3)})
    assert [array.sum() for array in parameters] == [0, 3]
    assert parameters[1:][0].sum() == 3
    assert list(parameters.keys()) == ["b", "a"]
