"""The original page of the ViewDiff-style face module: its code and command lines, with only the imports changed."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.systems.faceview.test_faces import write_files, write_rows

from lorgnette.compat.train_transformer3D.viewdiff import EnhancedTransformerDecoderOnly3D, train_enhanced
from lorgnette.systems.faceview import invented
from lorgnette.systems.faceview.faces import Person, Views

PAGE = Path(__file__).with_name("viewdiff_examples.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SHELL = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for block in SHELL
    for line in block.replace("\\\n", " ").splitlines()
    if "train_enhanced.py" in line
]
SMALL = "--d_model 64 --num_layers 1 --dim_feedforward 32 --num_workers 0 --device cpu --voxel_resolution 4".split()


def short(people: dict[str, Person]) -> dict[str, Person]:
    """The same with embeddings of 64 numbers."""

    def cut(views: Views) -> Views:
        return replace(views, embedding=views.embedding[:, :64])

    return {name: Person(cut(person.front), cut(person.video)) for name, person in people.items()}


def ours(block: str) -> str:
    return block.replace("from train_transformer3D", "from lorgnette.compat.train_transformer3D")


@pytest.mark.parametrize("n", [1, 2, 8])
@pytest.mark.parametrize("block", [b for b in PYTHON if "import" in b and "base_model" not in b and "optimizer" not in b
                                   and "CosineAnnealing" not in b])  # fmt: skip
def test_an_example_runs(block: str, n: int, capsys: pytest.CaptureFixture[str]):
    names: dict[str, Any] = {"torch": torch}
    block = re.sub(r"\b8, (512|3|5)\b", rf"{n}, \1", block).replace("batch_size = 8", f"batch_size = {n}")
    exec(compile(ours(block), "page", "exec"), names)
    said = capsys.readouterr().out
    output = names["output"]
    assert torch.isfinite(output).all()
    if "CrossViewAttention" in block:
        assert output.shape == (40, 512)
    elif "Projection" in block:
        assert output.shape == (n, 512, 1, 1)
    else:
        assert output.shape == (n, 512)
        assert "形状" in said or "4096" in said


def test_there_were_all_of_them():
    assert len([block for block in PYTHON if "import" in block]) == 7
    assert len(COMMANDS) == 5


def test_the_prior_s_example_and_the_optimiser_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save(
        EnhancedTransformerDecoderOnly3D(512, use_lora_attention=False, use_projection_layer=False).state_dict(),
        "base_model.pth",
    )
    (block,) = (b for b in PYTHON if "base_model.load_state_dict" in b)
    n = 4
    names: dict[str, Any] = {"torch": torch, "F": F, "src": torch.randn(n, 512), "targets": torch.randn(n, 512)}
    names |= {"angles": torch.randn(n, 3), "pose": torch.randn(n, 3), "keypoints_3d": torch.randn(n, 5, 3)}
    exec(compile(ours(block), "page", "exec"), names)
    assert names["loss"].requires_grad
    model = names["enhanced_model"]
    names["lora_params"] = model.get_lora_parameters()
    own = {id(p) for p in names["lora_params"]}
    names["base_params"] = [p for p in model.get_trainable_parameters() if id(p) not in own]
    assert names["base_params"]
    for block in PYTHON:
        if "torch.optim.AdamW" in block or "CosineAnnealingLR" in block:
            exec(compile(block, "page", "exec"), names)
    names["loss"].backward()
    names["optimizer"].step()
    names["scheduler"].step()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("faces"), short(invented(12, 3, seed=40)))


@pytest.fixture(scope="module")
def base(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that the command itself trained."""
    folder = tmp_path_factory.mktemp("base")
    places = ["--save_dir", str(folder), "--log_dir", str(folder / "logs")]
    assert train_enhanced.main(["--data_dir", str(faces), "--epochs", "2", *SMALL, *places]) == 0
    return folder / "best_model_enhanced.pth"


def places(folder: Path) -> list[str]:
    return ["--save_dir", str(folder / "saved"), "--log_dir", str(folder / "logs")]


@pytest.mark.parametrize("words", [w for w in COMMANDS if "--resume" not in w], ids=range(4))
def test_every_command_line_trains(words: list[str], faces: Path, base: Path, tmp_path: Path):
    assert words[:2] == ["python", "train_transformer3D/viewdiff/train_enhanced.py"]
    words = [str(faces) if word == "train/datas/file" else word for word in words[2:]]
    words = [str(base) if word.endswith("best_model.pth") else word for word in words]
    assert train_enhanced.main([*words, "--epochs", "1", *SMALL, *places(tmp_path)]) == 0
    assert (tmp_path / "logs" / "enhanced_training_history.json").is_file()


def test_resumed_as_if_never_stopped(faces: Path, tmp_path: Path):
    """The page's line: a checkpoint of some epoch, and the number of epochs."""
    flags = ["--data_dir", str(faces), "--batch_size", "16", "--epochs", "20", "--use_lora_attention", *SMALL]
    assert train_enhanced.main([*flags, *places(tmp_path / "a")]) == 0
    checkpoint = tmp_path / "a" / "saved" / "checkpoint_epoch_10_enhanced.pth"
    (words,) = (w for w in COMMANDS if "--resume" in w)
    words = [{"train/datas/file": str(faces), "100": "20"}.get(word, word) for word in words[2:]]
    words = [str(checkpoint) if word.endswith("_enhanced.pth") else word for word in words]
    assert train_enhanced.main([*words, *places(tmp_path / "b"), "--device", "cpu"]) == 0
    one, two = (
        torch.load(tmp_path / run / "saved" / "checkpoint_epoch_20_enhanced.pth", weights_only=True) for run in "ab"
    )
    assert one["epoch"] == two["epoch"] == 19
    first, second = one["model_state_dict"], two["model_state_dict"]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert one["val_metrics"] == two["val_metrics"]


def test_what_is_written(base: Path, faces: Path):
    history = json.loads((base.parent / "logs" / "enhanced_training_history.json").read_text())
    assert len(history["train_loss_history"]) == len(history["val_loss_history"]) == history["total_epochs"] == 2
    assert history["best_val_loss"] <= history["val_loss_history"][0] + 1e-9
    kept = torch.load(base, weights_only=True)
    assert {"epoch", "model_state_dict", "best_val_loss", "val_metrics", "args"} <= kept.keys()
    assert kept["args"]["data_dir"] == str(faces)


def test_tags_of_tensorboard(base: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(base.parent / "logs"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"Train/Loss", "Train/LearningRate", "Epoch/TrainLoss", "Epoch/ValLoss", "Epoch/ValCosineSim"} <= tags
    assert [e.step for e in events.Scalars("Epoch/ValLoss")] == [0, 1, 2]


def test_a_base_keeps_its_attention_and_without_one_all_is_trained(faces: Path, base: Path, tmp_path: Path, capsys):
    flags = ["--data_dir", str(faces), "--use_lora_attention", "--epochs", "1", "--lr", "1e-3", *SMALL]
    assert train_enhanced.main([*flags, "--base_model_path", str(base), *places(tmp_path)]) == 0
    assert "nothing to adapt" not in capsys.readouterr().out
    old = torch.load(base, weights_only=True)["model_state_dict"]
    options = train_enhanced.arguments().parse_args([*flags, "--base_model_path", str(base)])
    task = train_enhanced.make(options)
    frozen = {name for name, p in task.model.named_parameters() if not p.requires_grad}
    assert frozen == {n for n in old if "_attn." in n}
    assert all(torch.equal(task.model.state_dict()[name], value) for name, value in old.items())
    assert train_enhanced.main([*flags, *places(tmp_path / "none")]) == 0
    assert "all weights are trained" in capsys.readouterr().out


def test_the_layout_of_the_original(tmp_path: Path):
    folder = write_rows(tmp_path / "rows", short(invented(6, 2, seed=41)))
    flags = ["--epochs", "1", "--gradient_accumulation_steps", "2", "--batch_size", "4", "--use_amp", *SMALL]
    assert train_enhanced.main(["--data_dir", str(folder), *flags, *places(tmp_path)]) == 0


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert train_enhanced.main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_is_wrong_is_one_line(faces: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = ["--data_dir", str(faces), *SMALL, *places(tmp_path)]
    assert "needs --base_model_path" in refused(capsys, *data, "--use_prior_preservation")
    assert "no such folder" in refused(capsys, "--data_dir", str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    assert "holds no faces" in refused(capsys, "--data_dir", str(tmp_path / "empty"))
    other = refused(capsys, *data, "--base_model_path", str(base), "--d_model", "128")
    assert "is d_model 128 right" in other
    assert "is no checkpoint of this command" in refused(capsys, *data, "--resume", str(base))
    few = write_files(tmp_path / "few", short(invented(2, 2, seed=42)))
    assert "2 persons cannot be split" in refused(capsys, "--data_dir", str(few), *SMALL)
    np.save(faces / "video_40-0000_pose.npy", np.full((3, 3), 60.0))
    assert "are these degrees" in refused(capsys, *data)
