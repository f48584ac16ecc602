"""The requirement document on LoRA for SAM 3D's mesh decoder: its own lines; only imports and paths are changed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.systems.mesh.volumes import write_cases
from torch import nn

import lorgnette.compat.sam3dmed
from lorgnette.compat.sam3dmed import eval_medical, train_medical
from lorgnette.compat.sam3dmed.lora import (
    LoRALinear,
    _find_modules_by_name,
    get_lora_state_dict,
    inject_lora,
    load_lora_state_dict,
    merge_lora_weights,
    setup_lora_for_medical_finetuning,
)
from lorgnette.compat.sam3dmed.train_medical import MedicalTrainer, create_model
from lorgnette.systems import mesh

PAGE = Path(__file__).with_name("sam3dmed_examples.md").read_text(encoding="utf-8")
SETUP, OPTIMIZER, SAVE, LOAD, MERGE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
pytestmark = pytest.mark.filterwarnings("ignore::lorgnette.images.folders.PassedOver")


def decoder() -> mesh.SLatMeshDecoder:
    torch.manual_seed(0)
    return create_model("tiny", "none", 4)


def trainer(folder: Path, epochs: int = 0, **settings: Any) -> MedicalTrainer:
    _, batches, test = mesh.tiny()
    torch.manual_seed(1)
    made = MedicalTrainer(decoder(), batches, test, lr=0.01, checkpoint_dir=folder, device="cpu", **settings)
    if epochs:
        made.train(epochs)
    return made


def run(block: str, names: dict[str, Any]) -> None:
    exec(compile(block.replace("sam3d_objects.model.lora", "lorgnette.compat.sam3dmed.lora"), "page", "exec"), names)


def test_the_pages_own_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    _, batches, test = mesh.tiny()
    names: dict[str, Any] = {"model": decoder(), "torch": torch}
    for block in (SETUP, OPTIMIZER):
        run(block, names)
    task = mesh.MeshDecoding(names["model"], mesh.Model(), mesh.Data(resolution=4))
    for batch in batches[:2]:
        task(batch)["loss"].backward()
        names["optimizer"].step()
    run(SAVE, names)
    trained = task.predict(test[0])
    again: dict[str, Any] = {"model": decoder(), "torch": torch}
    run(LOAD, again)
    loaded = again["model"]
    assert torch.equal(loaded(test[0]["coords"], test[0]["feats"])[1], trained)
    assert not torch.equal(decoder()(test[0]["coords"], test[0]["feats"])[1], trained)
    run(MERGE, again)
    assert type(again["model"].blocks[0].attn.to_qkv) is nn.Linear
    merged = again["model"](test[0]["coords"], test[0]["feats"])[1]
    assert (merged - trained).norm() <= 1e-5 * trained.norm()


def test_a_layer_is_adapted_and_frozen():
    linear = nn.Linear(6, 10)
    before = linear(torch.ones(2, 6))
    layer = LoRALinear(linear, rank=3, alpha=6, dropout=0.1)
    assert layer is linear
    assert isinstance(layer, LoRALinear)
    assert not isinstance(nn.Linear(2, 2), LoRALinear)
    assert (layer.lora_A.shape, layer.lora_B.shape) == ((3, 6), (10, 3))
    assert [n for n, p in layer.named_parameters() if p.requires_grad] == ["lora_A", "lora_B"]
    assert torch.equal(layer.eval()(torch.ones(2, 6)), before)
    nn.init.ones_(layer.lora_B)
    out = layer(torch.ones(2, 6))
    torch.testing.assert_close(layer.merge_weights()(torch.ones(2, 6)), out)
    with pytest.raises(ValueError, match="has a forward or an adapter of its own"):
        LoRALinear(layer)


def test_names_are_found_by_whole_parts():
    model = decoder()
    assert [name for name, _ in _find_modules_by_name(model, ["to_qkv"])] == [f"blocks.{i}.attn.to_qkv" for i in (0, 1)]
    with pytest.raises(ValueError, match="'to_q' matches no layer"):
        _find_modules_by_name(model, ["to_q"])


def test_settings_by_layer_and_by_a_function():
    model = decoder()
    setup_lora_for_medical_finetuning(model, per_layer={r"blocks\.0\.attn\.to_qkv": {"r": 7, "lora_alpha": 14}})
    assert [block.attn.to_qkv.r for block in model.blocks] == [7, 4]
    assert model.out_layer.weight.requires_grad
    assert not model.input_layer.weight.requires_grad
    model = decoder()
    chosen = setup_lora_for_medical_finetuning(
        model, target_modules=lambda name, layer: name.endswith("mlp.0"), unfreeze_output_layers=False
    )
    assert chosen is model
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f"blocks.{i}.mlp.mlp.0.lora_{factor}" for i in (0, 1) for factor in "AB"
    }


def test_strict_loading_says_what_does_not_fit():
    model = decoder()
    setup_lora_for_medical_finetuning(model)
    state = get_lora_state_dict(model)
    with pytest.raises(ValueError, match="does not fit"):
        load_lora_state_dict(model, {name: tensor for name, tensor in state.items() if "blocks.1" not in name})
    with pytest.raises(ValueError, match="inject_lora or load_adapter comes first"):
        load_lora_state_dict(decoder(), state)


def test_a_copy_can_be_merged():
    model = decoder()
    inject_lora(model, target_modules=["to_qkv"], rank=2, alpha=4)
    copy = merge_lora_weights(model, inplace=False)
    assert isinstance(model.blocks[0].attn.to_qkv, LoRALinear)
    assert not isinstance(copy.blocks[0].attn.to_qkv, LoRALinear)


def test_training_lowers_the_loss_and_writes_what_the_page_says(tmp_path: Path):
    made = trainer(tmp_path)
    trained = {id(p) for group in made.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in made.model.parameters() if p.requires_grad}
    history = made.train(3, save_every=2)
    assert history["train"][-1]["loss"] < history["train"][0]["loss"]
    assert len(history["val"]) == 3
    assert json.loads((tmp_path / "history.json").read_text()) == history
    assert (tmp_path / "epoch_2.pt").exists()
    kept = torch.load(tmp_path / "final.pt", weights_only=True)
    assert kept["epoch"] == 3
    assert kept["lora_state_dict"].keys() == get_lora_state_dict(made.model).keys()
    assert "out_layer.weight" in kept["lora_state_dict"]


def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(tmp_path: Path):
    """Bit for bit, the unfrozen layers too, with dropout and a loader that shuffles."""
    _, batches, _ = mesh.tiny()

    def made(folder: str) -> MedicalTrainer:
        loader = torch.utils.data.DataLoader(batches, batch_size=None, shuffle=True)
        torch.manual_seed(1)
        return MedicalTrainer(
            decoder(), loader, lr=0.01, lora_dropout=0.2, checkpoint_dir=tmp_path / folder, device="cpu"
        )

    whole = made("whole")
    whole.train(2)
    made("stopped").train(1)
    again = made("again")
    assert again.load_checkpoint(tmp_path / "stopped" / "final.pt") == 1
    again.train(1)
    wanted = get_lora_state_dict(whole.model)
    found = get_lora_state_dict(again.model)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert again.history == whole.history


def test_other_files_and_models_are_refused(tmp_path: Path):
    made = trainer(tmp_path)
    torch.save({"epoch": 1}, tmp_path / "no.pt")
    with pytest.raises(ValueError, match="has no 'lora_state_dict'"):
        made.load_checkpoint(tmp_path / "no.pt")
    with pytest.raises(ValueError, match="a Linear is not trained here"):
        MedicalTrainer(nn.Linear(2, 2), [])
    with pytest.raises(ValueError, match="--data_root: not set"):
        train_medical.main(["--use_dataset"])


def test_the_commands_train_and_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train_medical.main(["--epochs", "1", "--device", "cpu", "--checkpoint_dir", str(tmp_path / "check")])
    root = str(write_cases(tmp_path / "cases", 3))
    same = ["--data_root", root, "--resolution", "4", "--size", "tiny", "--device", "cpu"]
    folder = tmp_path / "kept"
    words = ["--use_dataset", *same, "--base", "none", "--epochs", "1", "--checkpoint_dir", str(folder)]
    made = train_medical.main([*words, "--split", "train", "--val_split", "test"])
    assert made.history["val"][0]["dice"] > 0
    merged = merge_lora_weights(made.model, inplace=False)
    torch.save(merged.state_dict(), tmp_path / "merged.pt")
    rows = eval_medical.main(
        ["--checkpoint", str(tmp_path / "merged.pt"), *same, "--split", "test", "--output_dir", str(tmp_path / "out")]
    )
    assert rows["dice"]["count"] == 2
    assert rows["dice"]["mean"] == pytest.approx(made.history["val"][0]["dice"], abs=1e-3)
    assert json.loads((tmp_path / "out" / "evaluation_results.json").read_text())["metrics"] == rows
    torch.save(decoder().state_dict(), tmp_path / "base.pt")
    adapted = eval_medical.load_model(str(folder / "final.pt"), "tiny", str(tmp_path / "base.pt"), 4)
    found = get_lora_state_dict(adapted)
    assert all(torch.equal(tensor, found[name]) for name, tensor in get_lora_state_dict(made.model).items())
    assert "kept in" in capsys.readouterr().out


@pytest.mark.slow
def test_the_pipeline_script_runs(tmp_path: Path):
    root = write_cases(tmp_path / "cases", 2)
    torch.save(decoder().state_dict(), tmp_path / "base.pt")
    script = Path(lorgnette.compat.sam3dmed.__file__).parent / "run_medical_pipeline.sh"
    words = [
        "--resolution",
        "4",
        "--size",
        "tiny",
        "--base",
        str(tmp_path / "base.pt"),
        "--epochs",
        "1",
        "--device",
        "cpu",
    ]
    env = os.environ | {"PYTHON": sys.executable}
    subprocess.run(["bash", script, root, tmp_path / "kept", *words], check=True, env=env)
    assert json.loads((tmp_path / "kept" / "evaluation_results.json").read_text())["metrics"]["dice"]["count"] == 4
