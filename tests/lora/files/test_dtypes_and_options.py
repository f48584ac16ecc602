"""Adapters of bases in another dtype, and of a PEFT that knows more than this program."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from peft import LoraConfig, PeftType, get_peft_model
from torch import nn

from lorgnette.lora import fingerprint, inject_lora, load_adapter, save_adapter

X = torch.randn(3, 6)


def base(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).to(dtype).eval()


def saved(folder, dtype: torch.dtype, **kwargs) -> nn.Module:
    model = inject_lora(base(dtype), target_modules=["0"])
    nn.init.normal_(model[0].lora_B)
    save_adapter(model, folder, **kwargs)
    return model


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_a_copy_that_was_cast_is_known_again(narrow, tmp_path):
    model = saved(tmp_path, narrow)
    again = base()
    assert load_adapter(again, tmp_path).base == ""
    torch.testing.assert_close(again(X), model(X.to(narrow)).float(), rtol=0.1, atol=0.1)
    assert load_adapter(base(torch.float64), tmp_path).complete
    with pytest.raises(ValueError, match="tensors have other values"):
        load_adapter(base(seed=1), tmp_path)


@pytest.mark.parametrize(
    ("trained", "used"),
    [(torch.float32, torch.float16), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float16)],
)
def test_what_cannot_be_known_again_is_refused_by_its_dtype(trained, used, tmp_path):
    saved(tmp_path, trained)
    then, now = (str(dtype).removeprefix("torch.") for dtype in (trained, used))
    with pytest.raises(
        ValueError, match=rf"'0\.weight' was {then} and is {now} here.*base=.*check_base=False"
    ) as error:
        load_adapter(base(used), tmp_path)
    assert "\n" not in str(error.value)
    model = base(used)
    assert load_adapter(model, tmp_path, check_base=False).complete
    if trained == torch.float32:
        assert load_adapter(base(used), tmp_path, base=fingerprint(base())).base == ""


def test_the_manifest_of_a_float32_base_says_nothing_of_it(tmp_path):
    saved(tmp_path / "a", torch.float32)
    saved(tmp_path / "b", torch.bfloat16, base=fingerprint(base()))
    assert all("base_dtypes" not in json.loads((tmp_path / n / "lorgnette.json").read_text()) for n in "ab")
    saved(tmp_path / "c", torch.bfloat16)
    assert json.loads((tmp_path / "c" / "lorgnette.json").read_text())["base_dtypes"]["0.weight"] == "bfloat16"


@pytest.fixture
def folder(tmp_path):
    get_peft_model(base(), LoraConfig(target_modules=["0"], init_lora_weights=False)).save_pretrained(tmp_path)
    return tmp_path


def changed(folder, **options) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))


def test_every_option_of_this_peft_is_known(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_adapter(base(), folder).complete


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}, {"inner": {"enabled": False}}, [None]], ids=repr)
def test_an_unknown_option_that_is_off_is_nothing_to_speak_of(value, folder):
    changed(folder, use_another_formula=value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_adapter(base(), folder).complete


@pytest.mark.parametrize("value", [True, {"enabled": True}, {"inner": {"kind": "x"}}, ["x"]], ids=repr)
def test_an_unknown_option_that_is_on_is_refused_by_name(value, folder):
    changed(folder, use_another_formula=value)
    model = base()
    with pytest.raises(ValueError, match=r"use_another_formula = .* is not known here .*remove it from the file"):
        load_adapter(model, folder)
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize("value", [16, 0.5, "text"])
def test_an_unknown_number_or_text_is_named(value, folder):
    changed(folder, group_size_of_something=value)
    with pytest.warns(UserWarning, match=r"group_size_of_something = .* is not known here .*ignored"):
        assert load_adapter(base(), folder).complete


@pytest.mark.parametrize("kind", [*sorted({kind.value for kind in PeftType} - {"LORA"}), "A_LATER_ONE", None])
def test_another_type_of_adapter_is_refused(kind, folder):
    changed(folder, peft_type=kind)
    with pytest.raises(ValueError, match=f"peft_type {kind!r} is not supported; 'LORA' is"):
        load_adapter(base(), folder)
