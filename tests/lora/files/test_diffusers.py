"""Files in diffusers' names, old and new, of one part of a pipeline or of several."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from lorgnette.lora import import_adapter, inject_lora

X = torch.randn(2, 4)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(4, 4)
        self.to_out = nn.ModuleList([nn.Linear(4, 4), nn.Dropout()])
        self.proj = nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.to_out[0](self.to_q(x))[..., None])[..., 0]


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn1 = Attention()

    def forward(self, x: Tensor) -> Tensor:
        return self.attn1(x)


def unet() -> UNet:
    torch.manual_seed(0)
    return UNet().eval()


def factors() -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    drawn = {name: (torch.randn(2, 4, generator=generator), torch.randn(4, 2, generator=generator)) for name in
             ("attn1.to_q", "attn1.to_out.0")}  # fmt: skip
    A, B = (torch.randn(2, 4, 1, generator=generator), torch.randn(4, 2, 1, generator=generator))
    return drawn | {"attn1.proj": (A, B)}


def wanted(strength: float = 2) -> Tensor:
    model = inject_lora(unet(), target_modules=list(factors()), rank=2, alpha=strength)
    for name, (A, B) in factors().items():
        model.get_submodule(name).lora_A.data, model.get_submodule(name).lora_B.data = A, B
    return model(X)


WORDS = {
    "of now": ("{}.lora_A.weight", "{}.lora_B.weight"),
    "with a name": ("{}.lora_A.default.weight", "{}.lora_B.default.weight"),
    "before": ("{}.lora.down.weight", "{}.lora.up.weight"),
    "of text encoders": ("{}.lora_linear_layer.down.weight", "{}.lora_linear_layer.up.weight"),
}


def named(words: tuple[str, str], start: str = "unet.") -> dict[str, Tensor]:
    return {
        start + word.format(name): t for name, pair in factors().items() for word, t in zip(words, pair, strict=True)
    }


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_every_way_of_naming_is_read(words, tmp_path):
    model = unet()
    assert import_adapter(model, named(words)).complete  # a strength that is not stated is the rank
    torch.testing.assert_close(model(X), wanted())
    model = unet()
    save_file(named(words), tmp_path / "pytorch_lora_weights.safetensors")
    assert import_adapter(model, tmp_path / "pytorch_lora_weights.safetensors", alpha=3).complete
    torch.testing.assert_close(model(X), wanted(3))
    pipeline = nn.ModuleDict({"unet": unet()})
    assert import_adapter(pipeline, named(words)).complete
    torch.testing.assert_close(pipeline["unet"](X), wanted())


def test_tensors_of_a_peft_file_without_its_settings_are_read_where_their_strength_is_given(tmp_path):
    state = named(WORDS["of now"], "base_model.model.")
    with pytest.raises(ValueError, match=r"its names are PEFT's; give the folder, .* or alpha="):
        import_adapter(unet(), state)
    model = unet()
    assert import_adapter(model, state, format="diffusers", alpha=3).complete
    torch.testing.assert_close(model(X), wanted(3))


def test_names_of_the_processors_are_read():
    state = {}
    for name, (A, B) in factors().items():
        if name != "attn1.proj":
            place = "attn1.processor." + name.removeprefix("attn1.").removesuffix(".0")
            state |= {f"unet.{place}_lora.down.weight": A, f"unet.{place}_lora.up.weight": B}
    model = unet()
    assert import_adapter(model, state).complete
    plain = inject_lora(unet(), target_modules=["attn1.to_q", "attn1.to_out.0"], rank=2, alpha=2)
    for name in ("attn1.to_q", "attn1.to_out.0"):
        plain.get_submodule(name).lora_A.data, plain.get_submodule(name).lora_B.data = factors()[name]
    torch.testing.assert_close(model(X), plain(X))


@pytest.mark.parametrize("word", ["{}.alpha", "{}.lora.alpha", "{}.lora.down.weight.alpha"])
def test_strengths_beside_the_factors(word):
    strengths = {"unet." + word.format(name): torch.tensor(6.0) for name in factors()}
    model = unet()
    assert import_adapter(model, named(WORDS["before"]) | strengths).complete
    torch.testing.assert_close(model(X), wanted(6))


def test_strengths_in_the_files_metadata(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(named(WORDS["of now"]), file, metadata={"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 5})})
    model = unet()
    assert import_adapter(model, file).complete
    torch.testing.assert_close(model(X), wanted(5))
    other = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 5, "unet.alpha_pattern": {"to_q": 2}})}
    save_file(named(WORDS["of now"]), file, metadata=other)
    with pytest.raises(ValueError, match=r"metadata have unet.alpha_pattern"):
        import_adapter(unet(), file)


def in_metadata(folder, **options):
    """A file of now, with settings of PEFT's as diffusers keeps them beside each part of a pipeline."""
    told = LoraConfig(r=2, lora_alpha=5, target_modules=["to_q"], **options).to_dict()
    told["target_modules"] = ["to_q"]
    text = json.dumps({f"unet.{name}": value for name, value in told.items()})
    file = folder / "pytorch_lora_weights.safetensors"
    save_file(named(WORDS["of now"]), file, metadata={"lora_adapter_metadata": text})
    return file


def test_settings_in_the_metadata_mean_what_they_mean_to_peft(tmp_path):
    model = unet()
    assert import_adapter(model, in_metadata(tmp_path)).complete
    torch.testing.assert_close(model(X), wanted(5))
    model = unet()
    assert import_adapter(model, in_metadata(tmp_path, use_rslora=True)).complete
    torch.testing.assert_close(model(X), wanted(5 * 2**0.5))  # alpha / sqrt(r) in place of alpha / r


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"alpha_pattern": {"to_q": 3}}, "alpha_pattern"),
    ],
)
def test_settings_that_change_what_is_computed_are_refused_by_name(options, named, tmp_path):
    model = unet()
    with pytest.raises(ValueError, match=f"its metadata .*{named}") as refusal:
        import_adapter(model, in_metadata(tmp_path, **options))
    assert "\n" not in str(refusal.value)
    assert type(model.attn1.to_q) is nn.Linear


@pytest.mark.parametrize(
    "part", ["transformer_2", "transformer_ref", "connectors", "text_conditioner", "diffusion_model"]
)
def test_parts_of_newer_pipelines_are_known(part):
    model = unet()
    assert import_adapter(model, named(WORDS["of now"], f"{part}.")).complete
    torch.testing.assert_close(model(X), wanted())


def test_one_part_of_a_pipeline_is_taken():
    other = {
        f"text_encoder.layers.0.q_proj.lora_linear_layer.{word}.weight": torch.ones(2, 2) for word in ("down", "up")
    }
    state = named(WORDS["before"]) | other
    with pytest.raises(ValueError, match=r"layers.0.q_proj"):
        import_adapter(unet(), state)
    model = unet()
    assert import_adapter(model, state, prefix="unet").complete
    torch.testing.assert_close(model(X), wanted())
    pipeline = nn.ModuleDict({"unet": unet()})
    assert import_adapter(pipeline, state, prefix="unet").complete
    with pytest.raises(ValueError, match="no name of the file begins with 'prior'"):
        import_adapter(unet(), state, prefix="prior")


def test_what_is_half_or_of_another_method_is_refused():
    state = named(WORDS["of now"])
    half = dict(state)
    del half["unet.attn1.to_q.lora_B.weight"]
    with pytest.raises(ValueError, match=r"'attn1.to_q' has lora_A alone: the file is incomplete"):
        import_adapter(unet(), half)
    with pytest.raises(ValueError, match="lora_magnitude_vector' belongs to another method"):
        import_adapter(unet(), state | {"unet.attn1.to_q.lora_magnitude_vector": torch.ones(4)})
