"""Adapter folders: round trips, other bases, strangers' files, killed saves."""
# ruff: noqa: E501  (tables of messages)

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from lorgnette.lora import (
    LoRAConfig,
    adapted_layers,
    adapter_info,
    fingerprint,
    get_lora_state_dict,
    inject_lora,
    is_adapted,
    load_adapter,
    merge_lora_weights,
    save_adapter,
)
from lorgnette.lora.files.commit import current_file, replace_files

DATA = Path(__file__).parents[2] / "data" / "adapter_v1"
CONFIG = LoRAConfig(
    r=4,
    lora_alpha=6,
    lora_dropout=0.1,
    target_modules=["stem", "to_qkv", "to_out.0"],
    rank_pattern={"stem": 2},
    alpha_pattern={"to_out.0": 2.5},
    modules_to_save=["head"],
)


@pytest.fixture
def trained(make_net, shake):
    net = inject_lora(make_net(), CONFIG)
    shake(net)
    net.head.weight.data.add_(0.5)
    return net


@pytest.fixture
def folder(trained, tmp_path):
    return save_adapter(trained, tmp_path / "deep" / "adapter", CONFIG, {"room": "test", "n": [1, 2]})


def edit(path: Path, **changes) -> None:
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: item for name, item in value.items() if item is not None}))


def test_a_fresh_base_with_the_adapter_gives_the_same_output(make_net, trained, folder, images):
    net = make_net()
    net.head = nn.Linear(8, 4)  # comes with the adapter, whatever it was
    report = load_adapter(net, folder)
    assert report.complete
    assert report.base == ""
    assert report.extra == {"room": "test", "n": [1, 2]}
    assert torch.equal(net(images), trained(images))
    for name, layer in adapted_layers(net).items():
        mine = adapted_layers(trained)[name]
        assert (layer.r, layer.lora_alpha, layer.lora_dropout) == (mine.r, mine.lora_alpha, mine.lora_dropout)
    learning = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, parameter in trained.named_parameters() if parameter.requires_grad}
    assert get_lora_state_dict(net).keys() == get_lora_state_dict(trained).keys(), "saving again loses nothing"
    info = adapter_info(folder)
    assert (info["format_version"], info["peft"], info["config"]["r"]) == (1, True, 4)


def test_an_injected_model_takes_the_adapter_too(make_net, trained, folder, images):
    net = inject_lora(make_net(), CONFIG)
    load_adapter(net, folder)
    assert torch.equal(net(images), trained(images))


def test_the_files_keep_no_traces_of_training(trained, folder, tmp_path, images):
    trained(images).sum().backward()
    again = save_adapter(trained, tmp_path / "again", CONFIG, {"room": "test", "n": [1, 2]})
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "lorgnette.json",
    ]


def test_another_base_is_refused_unless_asked_for(make_net, folder, images):
    net = make_net(3)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(
        ValueError, match=r"is for another base than this SmallNet: \d+ of \d+ tensors have other"
    ) as error:
        load_adapter(net, folder)
    assert "\n" not in str(error.value)
    assert not is_adapted(net)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    report = load_adapter(net, folder, check_base=False)
    assert report.complete
    assert "other values" in report.base
    assert is_adapted(net)
    assert load_adapter(make_net(3), folder, strict=False).base == report.base


def test_a_fingerprint_from_before_a_cast_is_accepted(make_net, trained, tmp_path):
    net = make_net()
    base = fingerprint(net)
    inject_lora(net.bfloat16(), CONFIG)
    folder = save_adapter(net, tmp_path / "cast", base=base)
    load_adapter(make_net(), folder)
    with pytest.raises(ValueError, match="another base"):
        load_adapter(make_net().bfloat16(), folder)
    assert load_adapter(make_net().bfloat16(), folder, base=base).base == ""


def test_what_does_not_fit_is_named_and_the_model_untouched(make_net, folder, trained, tmp_path):
    renamed = make_net()
    renamed.stam = renamed.stem
    del renamed.stem
    with pytest.raises(ValueError, match=r"2 unexpected \('stem\.lora_A', 'stem\.lora_B'\)"):
        load_adapter(renamed, folder, check_base=False)
    assert not is_adapted(renamed)
    assert all(parameter.requires_grad for parameter in renamed.parameters())

    other = inject_lora(make_net(), CONFIG)
    other.blocks[0].to_qkv.lora_alpha = 8
    with pytest.raises(ValueError, match=r"'blocks\.0\.to_qkv\.lora_A' is scaled by 1\.5, in the model by 2"):
        load_adapter(other, folder)
    fewer = inject_lora(make_net(), target_modules=["to_qkv"], rank=4, alpha=6)
    with pytest.raises(ValueError, match=r"6 unexpected \('blocks\.0\.to_out\.0\.lora_A'"):
        load_adapter(fewer, folder)
    higher = inject_lora(make_net(), target_modules="all-linear", rank=5, alpha=7.5)
    with pytest.raises(ValueError, match=r"2 missing .* has rank 4, the model 5"):
        load_adapter(higher, folder)

    sealed = make_net()
    inner = sealed.stem.forward
    sealed.stem.forward = lambda x: inner(x)
    with pytest.raises(ValueError, match=r"'stem' \(Conv2d\) has a forward of its own"):
        load_adapter(sealed, folder)

    with pytest.raises(ValueError, match="Linear has no adapter; inject_lora comes first"):
        save_adapter(nn.Linear(2, 2), tmp_path)
    with pytest.raises(ValueError, match="extra holds what JSON cannot"):
        save_adapter(trained, tmp_path, extra={"path": object()})
    assert not list(tmp_path.glob("*.json"))


def test_a_load_that_is_not_strict_takes_what_fits(make_net, folder):
    renamed = make_net()
    renamed.stam = renamed.stem
    del renamed.stem
    report = load_adapter(renamed, folder, strict=False)
    assert list(report.unexpected) == ["stem.lora_A", "stem.lora_B"]
    assert not report.missing
    assert "stem" not in adapted_layers(renamed)
    assert len(adapted_layers(renamed)) == 4
    assert report.base == "it lacks 2 of 19 tensors, such as 'stem.bias'"


def damage_header(data: bytes) -> bytes:
    return (2**62).to_bytes(8, "little") + data[8:]


HOSTILE = {
    "pickle": lambda data: pickle.dumps({"x": 1}),
    "huge header": damage_header,
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "html": lambda data: b"<html>not found</html>",
    "offsets beyond the end": lambda data: safetensors_with('{"a":{"dtype":"F32","shape":[9999999],"data_offsets":[0,4]}}'),
    "huge tensor": lambda data: safetensors_with('{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,399999999996]}}'),
}  # fmt: skip


def safetensors_with(header: str) -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + b"\0" * 4


@pytest.mark.parametrize("damage", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("peft", [False, True])
def test_hostile_weights_are_refused_unrun(net, folder, damage, peft):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    if peft:
        (folder / "lorgnette.json").unlink()
    with pytest.raises(ValueError, match=r"safetensors is not (the file|a safetensors file)") as error:
        load_adapter(net, folder)
    assert "\n" not in str(error.value)
    assert not is_adapted(net)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("bomb-went-off"),))


def test_a_pickle_is_never_run(net, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ValueError, match=r"adapter_model\.bin was refused unrun"):
        load_adapter(net, tmp_path)
    (tmp_path / "adapter_model.bin").rename(tmp_path / "adapter_model.pt")
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.pt is a pickle and is not opened"):
        load_adapter(net, tmp_path)
    (tmp_path / "adapter_model.pt").rename(tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_adapter(net, tmp_path)
    assert not Path("bomb-went-off").exists()


def test_a_file_far_larger_than_the_model_is_not_read(net, folder):
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(2**31)  # sparse
    with pytest.raises(ValueError, match="far too large for an adapter of SmallNet"):
        load_adapter(net, folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "has format_version 2; this Lorgnette reads up to 1"),
        ({"format_version": None}, "is not an adapter's manifest"),
        ({"layers": None}, "is damaged (KeyError('layers'))"),
        ({"layers": [1]}, "is damaged (AttributeError"),
        ({"layers": {"stem": {"r": -1}}}, "cannot be used: lora.r: -1"),
        ({"layers": {"stem": {"r": 10**12}}}, "'stem.lora_A' has rank 2, the model 1000000000000"),
        ({"layers": {"stem": {"what": 1}}}, "is damaged (TypeError"),
        ({"base": {}}, "is damaged (TypeError"),
        ({"base": {"structure": "", "content": "", "tensors": {"a": ""}}}, "lacks 1 of 1 tensors"),
        ({"weights": "0"}, "is not the file that lorgnette.json describes"),
    ],
)
def test_a_damaged_manifest_is_refused_in_one_line(net, folder, changes, message):
    edit(folder / "lorgnette.json", **changes)
    with pytest.raises(ValueError, match=r"adapter|lorgnette\.json") as error:
        load_adapter(net, folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not is_adapted(net)


def test_what_is_not_there_is_said(net, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such adapter folder: .*nowhere"):
        load_adapter(net, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no adapter_model\.safetensors in"):
        load_adapter(net, tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no adapter_model\.safetensors in"):
        load_adapter(net, folder)
    (folder / "lorgnette.json").write_text("[]")
    with pytest.raises(ValueError, match="is not an adapter's manifest"):
        adapter_info(folder)


def test_saving_replaces_and_leaves_other_files_alone(trained, folder, make_net):
    (folder / "README.md").write_text("mine")
    trained.head.bias.data.zero_()
    save_adapter(trained, folder, files={"recipe.yaml": "a: 1\n"})
    net = make_net()
    load_adapter(net, folder)
    assert not net.head.bias.any()
    assert (folder / "README.md").read_text() == "mine"
    assert (folder / "recipe.yaml").read_text() == "a: 1\n"
    assert len(list(folder.iterdir())) == 5


KILLED_SAVE = """
import os, sys
from pathlib import Path
from lorgnette.lora.files import commit

left = int(sys.argv[2])
def dying(function):
    def step(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os._exit(9)  # as SIGKILL: nothing is tidied up
        return function(*args, **kwargs)
    return step

Path.replace, Path.write_bytes = dying(Path.replace), dying(Path.write_bytes)
commit.replace_files(sys.argv[1], {name: b'{"format_version": 1, "new": 1}' for name in
                     ("adapter_model.safetensors", "adapter_config.json", "lorgnette.json")})
"""


def test_a_killed_save_leaves_all_old_or_all_new(tmp_path):
    names = ["adapter_model.safetensors", "adapter_config.json", "lorgnette.json"]
    seen = []
    for steps in range(12):
        folder = tmp_path / str(steps)
        replace_files(folder, dict.fromkeys(names, b'{"format_version": 1, "old": 1}'))
        code = subprocess.run([sys.executable, "-c", KILLED_SAVE, str(folder), str(steps)], check=False).returncode
        contents = {current_file(folder, name).read_bytes() for name in names}
        assert len(contents) == 1, f"a mix after {steps} steps"
        seen.append("new" if b"new" in contents.pop() else "old")
        assert list(adapter_info(folder)) == ["format_version", seen[-1]]
        replace_files(folder, dict.fromkeys(names, b'{"format_version": 1, "next": 1}'))
        assert sorted(path.name for path in folder.iterdir()) == sorted(names), "the next save tidies up"
        assert all(b"next" in (folder / name).read_bytes() for name in names)
        if code == 0:
            break
        assert code == 9
    assert code == 0
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {"old", "new"}
    assert len(seen) > 8


def test_a_full_disk_leaves_the_last_good_adapter(trained, folder, make_net, images, monkeypatch):
    wanted = trained(images)
    trained.head.bias.data.add_(1)

    def full(path, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            save_adapter(trained, folder)
    net = make_net()
    load_adapter(net, folder)
    assert torch.equal(net(images), wanted)


class Version1(nn.Module):
    """The base of the committed adapter; its weights are made by formula, not by a random generator."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, groups=2, padding_mode="reflect")
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        self.head = nn.Linear(3, 2)
        for parameter in self.parameters():
            parameter.data = torch.linspace(-1, 1, parameter.numel()).view(parameter.shape)

    def forward(self, x):
        return self.head(self.body(self.conv(x).mean((2, 3))))


def test_a_version_1_adapter_loads_for_ever(tmp_path):
    net = Version1().eval()
    shutil.copytree(DATA, tmp_path / "read-only")
    report = load_adapter(net, tmp_path / "read-only")
    assert report.complete
    assert report.extra == {"made": "for the test of old files"}
    expected = safetensors.torch.load_file(DATA.parent / "adapter_v1_output.safetensors")
    torch.testing.assert_close(net(expected["input"]), expected["output"], rtol=1e-5, atol=1e-6)
    assert set(adapted_layers(net)) == {"conv", "body.0", "body.2"}
    assert net.head.weight.requires_grad
    merge_lora_weights(net)
    torch.testing.assert_close(net(expected["input"]), expected["output"], rtol=1e-5, atol=1e-5)
