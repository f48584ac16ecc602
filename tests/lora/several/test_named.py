"""Several adapters of one model: each is exactly what it is alone, whichever way it comes to be used."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from tests.lora.cases import conv_1d_and_3d_cases, conv_cases, transposed_cases
from torch import nn

from lorgnette import lora
from lorgnette.lora import LoRAConfig
from lorgnette.lora.layers.parameter import sites

DAY = LoRAConfig(r=2, lora_alpha=6, target_modules=["to_qkv", "stem"])
NIGHT = LoRAConfig(r=5, lora_alpha=3, use_rslora=True, target_modules=["stem", "head", "to_qkv"])
THIRDS = LoRAConfig(r=3, target_modules=["to_qkv"], slices={"to_qkv": ["q", "v"]})


@pytest.fixture
def build(make_net, shake):
    """The net with these adapters, shaken, the first one active; and each of them alone."""

    def build(**configs: LoRAConfig):
        net, alone = make_net(), {}
        for i, (name, config) in enumerate(configs.items()):
            alone[name] = lora.inject_lora(make_net(), config)
            shake(alone[name], seed=i)
            lora.add_adapter(net, name, config)
            lora.set_adapter(net, name)
            lora.load_lora_state_dict(net, lora.get_lora_state_dict(alone[name]))
        lora.set_adapter(net, next(iter(configs)))
        return net, alone

    return build


def test_switching_is_exact_and_the_base_is_left_alone(build, make_net, images):
    net, alone = build(day=DAY, night=NIGHT, thirds=THIRDS)
    for name in ("night", "thirds", "day", "thirds"):
        lora.set_adapter(net, name)
        assert torch.equal(net(images), alone[name](images)), name
        assert [n for n, a in lora.adapters(net).items() if a.active] == [name]
    lora.set_adapter(net, None)
    assert torch.equal(net(images), make_net()(images))
    assert {name: type(m) for name, m in net.named_modules()} == {n: type(m) for n, m in make_net().named_modules()}
    lora.set_adapter(net, "night")
    assert lora.adapters(net)["night"].layers == 4
    assert lora.adapters(net)["night"].parameters == lora.count_parameters(alone["night"]).lora


def test_an_adapter_that_was_there_keeps_its_place(net, shake, images):
    lora.inject_lora(net, DAY)
    shake(net)
    before = net(images)
    lora.add_adapter(net, "night", NIGHT)
    assert torch.equal(net(images), before)
    assert list(lora.adapters(net)) == ["default", "night"]


def test_each_adapter_keeps_its_own_parameters_for_its_own_optimiser(build, images):
    net, _ = build(day=DAY, night=NIGHT)
    day = lora.get_lora_params(net)
    lora.set_adapter(net, "night")
    night, values = lora.get_lora_params(net), [p.detach().clone() for p in day]
    optimiser = torch.optim.SGD(night, 0.1)
    net(images).square().sum().backward()
    optimiser.step()
    lora.set_adapter(net, "day")
    assert all(a is b for a, b in zip(lora.get_lora_params(net), day, strict=True))
    assert all(torch.equal(p, value) for p, value in zip(day, values, strict=True))


def test_layers_of_one_weight_stay_together(shake):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    for name in ("a", "b"):
        lora.add_adapter(model, name, LoRAConfig(r=2, target_modules="all-linear"))
    for name in ("b", "a"):
        lora.set_adapter(model, name)
        assert model[0].lora_A is model[1].lora_A


def test_copies_are_independent(build, images):
    net, alone = build(day=DAY, night=NIGHT)
    other = copy.deepcopy(net)
    lora.set_adapter(other, "night")
    assert torch.equal(other(images), alone["night"](images))
    assert torch.equal(net(images), alone["day"](images))


def test_folders_are_ordinary_ones(build, make_net, images, tmp_path):
    net, alone = build(day=DAY, night=NIGHT, thirds=THIRDS)
    folders = lora.save_adapters(net, tmp_path)
    assert [folder.name for folder in folders] == ["day", "night", "thirds"]
    assert torch.equal(net(images), alone["day"](images)), "the active one is active again"
    for folder in folders:
        single = make_net()
        lora.load_adapter(single, folder)
        assert torch.equal(single(images), alone[folder.name](images))
    again = make_net(0)
    for folder in folders:
        lora.add_adapter(again, folder.name, folder)
    for name, single in alone.items():
        lora.set_adapter(again, name)
        assert torch.equal(again(images), single(images))


# ----------------------------------------------------------------------------------------------------------- sums


def deltas(model):
    """Every update, in float64, of the model's active adapter."""
    return {
        (name, site.parameter): site.adapter.merged_into(site.weight.double() * 0)
        for name, site in sites(model).items()
    }


def test_a_sum_is_the_sum_of_the_updates(build):
    net, alone = build(day=DAY, night=NIGHT)
    assert lora.combine(net, {"day": 0.7, "night": -0.3}, "mix").rows == ()
    lora.set_adapter(net, "mix")
    day, night = deltas(alone["day"]), deltas(alone["night"])
    assert {name: layer.r for name, layer in lora.adapted_layers(net).items()}["stem"] == 7
    for place, update in deltas(net).items():
        wanted = 0.7 * day.get(place, 0) - 0.3 * night.get(place, 0)
        torch.testing.assert_close(update, wanted, rtol=1e-5, atol=1e-6)


def test_a_sum_of_a_smaller_rank_says_what_it_lost(build):
    net, alone = build(day=DAY, night=NIGHT)
    assert len(lora.combine(net, {"day": 0.7, "night": 0.3}, "least", r=1).rows) == 4
    lora.remove_adapter(net, "least")
    report = lora.combine(net, {"day": 0.7, "night": 0.3}, "mix", r=3)
    lora.set_adapter(net, "mix")
    day, night = deltas(alone["day"]), deltas(alone["night"])
    errors = {row.name: row.error for row in report.rows}
    assert set(errors) == {"stem", "blocks.0.to_qkv", "blocks.1.to_qkv", "head"}
    for (place, parameter), update in deltas(net).items():
        wanted = 0.7 * day.get((place, parameter), 0) + 0.3 * night.get((place, parameter), 0)
        assert float((update - wanted).norm() / wanted.norm()) == pytest.approx(errors[place], abs=1e-5)


# ------------------------------------------------------------------------------------------------------- hot swap


def test_aligned_adapters_switch_without_compiling_again(build, images):
    from torch._dynamo.testing import CompileCounter

    net, alone = build(day=DAY, night=NIGHT, third=LoRAConfig(r=1, target_modules=["head"]))
    lora.align_adapters(net)
    where = [p.data_ptr() for p in lora.get_lora_params(net)]
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(net, backend=counter)
    with torch.no_grad():
        compiled(images)
        assert counter.frame_count == 1
        with torch._dynamo.config.patch(error_on_recompile=True):
            for name in ("night", "day", "third", "night", "day"):
                lora.set_adapter(net, name)
                torch.testing.assert_close(compiled(images), alone[name](images), rtol=1e-5, atol=1e-6)
    assert counter.frame_count == 1
    assert [p.data_ptr() for p in lora.get_lora_params(net)] == where
    torch._dynamo.reset()


def test_aligned_adapters_merge_save_and_take_another(build, make_net, images, tmp_path):
    net, alone = build(day=DAY, thirds=LoRAConfig(r=3, target_modules=["head"]))
    lora.align_adapters(net)
    lora.set_adapter(net, "thirds")
    lora.resize(net, 6)
    lora.set_adapter(net, "day")
    lora.set_adapter(net, "thirds")
    lora.add_adapter(net, "night", NIGHT)
    for name in ("day", "night", "thirds"):
        lora.set_adapter(net, name)
    for folder in lora.save_adapters(net, tmp_path):
        single = make_net()
        lora.load_adapter(single, folder)
        if folder.name in alone:
            torch.testing.assert_close(single(images), alone[folder.name](images), rtol=1e-5, atol=1e-6)
    merged = lora.merge_lora_weights(net, inplace=False)
    torch.testing.assert_close(merged(images), alone["thirds"](images), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------ mixed in a batch


def test_each_sample_has_its_own(build, make_net, images):
    net, alone = build(day=DAY, night=NIGHT, thirds=THIRDS)
    alone[None] = make_net()
    batch = torch.cat([images, images + 1, images - 1])
    names = ["night", None, "thirds", "day", "night", None]
    with lora.per_sample(net, names):
        mixed = net(batch)
    for i, name in enumerate(names):
        torch.testing.assert_close(mixed[i : i + 1], alone[name](batch[i : i + 1]), rtol=1e-5, atol=1e-6)
    assert torch.equal(net(batch), alone["day"](batch)), "afterwards all is as before"
    assert not any(module._forward_hooks for module in net.modules())


def test_gradients_reach_each_adapter_from_its_own_samples(build, images):
    net, alone = build(day=DAY, night=NIGHT)
    with lora.per_sample(net, ["day", "night"]):
        net(images).square().sum().backward()
    for i, name in enumerate(("day", "night")):
        lora.set_adapter(net, name)
        # not of images[i : i + 1]: PyTorch 2.13's gradient of a batch normalisation in eval() is wrong for one image
        alone[name](images)[i].square().sum().backward()
        for mine, other in zip(lora.get_lora_params(net), lora.get_lora_params(alone[name]), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=60, deadline=None)
@given(case=conv_cases() | conv_1d_and_3d_cases() | transposed_cases())
def test_every_convolution_knows_samples_apart(case):
    layer, x = case
    if x.dim() < layer.weight.dim():
        x = x[None]
    x = torch.cat([x, x.flip(-1) + 1])[:3]
    model = nn.Sequential(layer).double().eval()
    x = x.double()
    wanted = []
    for name, rank in (("a", 2), ("b", 3)):
        lora.add_adapter(model, name, LoRAConfig(r=rank, lora_alpha=5, target_modules=["0"]))
        lora.set_adapter(model, name)
        nn.init.normal_(model[0].lora_B)
        wanted.append(model(x))
    lora.set_adapter(model, None)
    wanted.append(model(x))
    chosen = [1, 0, 2][: len(x)]
    with lora.per_sample(model, [("a", "b", None)[i] for i in chosen]):
        mixed = model(x)
    torch.testing.assert_close(mixed, torch.stack([wanted[c][i] for i, c in enumerate(chosen)]), rtol=1e-9, atol=1e-9)


def test_windows_follow_their_sample():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(4, 4)
            self.conv = nn.Conv1d(4, 4, 3, padding=1)

        def forward(self, x):  # (B, 4 windows, 3 tokens, 4)
            x = self.proj(x.flatten(0, 1))
            return self.conv(x.mT).mT.unflatten(0, (-1, 4))

    torch.manual_seed(0)
    model, x, wanted = Windows().eval(), torch.randn(2, 4, 3, 4), []
    for name in ("a", "b"):
        lora.add_adapter(model, name, LoRAConfig(r=2, target_modules=["proj", "conv"]))
        lora.set_adapter(model, name)
        nn.init.normal_(model.proj.lora_B)
        nn.init.normal_(model.conv.lora_B)
        wanted.append(model(x))
    with lora.per_sample(model, ["b", "a"], windows=True):
        torch.testing.assert_close(model(x), torch.stack([wanted[1][0], wanted[0][1]]))
    with (
        lora.per_sample(model, ["b", "a"]),
        pytest.raises(ValueError, match=r"^per_sample: 'proj' sees 8 rows, and there are 2 names; windows=True"),
    ):
        model(x)


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype stage")
def test_the_fused_pass_of_an_encoder_layer_does_not_read_past_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)).eval()
    x, wanted = torch.randn(2, 5, 8), []
    for name in ("a", "b"):
        lora.add_adapter(model, name, LoRAConfig(r=2, target_modules=["linear1", "linear2"]))
        lora.set_adapter(model, name)
        nn.init.normal_(model[0].linear1.lora_B)
        nn.init.normal_(model[0].linear2.lora_B)
        with torch.no_grad():
            wanted.append(model(x))
    for active in ("a", None):
        lora.set_adapter(model, active)
        with torch.no_grad(), lora.per_sample(model, ["b", "a"]):
            torch.testing.assert_close(model(x), torch.stack([wanted[1][0], wanted[0][1]]), rtol=1e-5, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- refused


def test_what_does_not_work_is_named_and_nothing_changes(build, images, tmp_path):
    net, alone = build(day=DAY, night=NIGHT)
    refused = [
        (
            lambda: lora.set_adapter(net, "nigth"),
            r"^set_adapter: there is no adapter 'nigth' \(did you mean 'night'\?\)",
        ),
        (lambda: lora.remove_adapter(net, "x"), r"^remove_adapter: there is no adapter 'x'; there is 'day', 'night'$"),
        (lambda: lora.add_adapter(net, "day", DAY), r"^add_adapter: there is an adapter 'day' already"),
        (lambda: lora.add_adapter(net, "", DAY), r"^add_adapter: '' is not a name"),
        (lambda: lora.add_adapter(net, "x", LoRAConfig(target_modules=["nothing"])), r"'nothing' matches no layer"),
        (lambda: lora.add_adapter(net, "x", LoRAConfig(bias="all")), r"^add_adapter: lora.bias of 'x' trains base"),
        (lambda: lora.combine(net, {"dya": 1}, "x"), r"^combine: there is no adapter 'dya' \(did you mean 'day'"),
        (lambda: lora.combine(net, {"day": float("nan")}, "x"), r"^combine: weight nan of 'day' is not a number$"),
        (lambda: lora.combine(net, {}, "x"), r"^combine: no adapter is named"),
        (lambda: lora.combine(net, {"day": 1}, "x", r=0), r"^combine: r 0 is not a whole number"),
        (lambda: lora.per_sample(net, ["day", "moon"]).__enter__(), r"^per_sample: there is no adapter 'moon'"),
    ]
    for call, message in refused:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="no such adapter folder"):
        lora.add_adapter(net, "x", tmp_path / "absent")
    assert list(lora.adapters(net)) == ["day", "night"]
    assert torch.equal(net(images), alone["day"](images))
    lora.merge_lora_weights(net)
    with pytest.raises(ValueError, match=r"^adapters: 'day' was merged or taken out"):
        lora.set_adapter(net, "night")


def test_places_that_know_no_samples_are_refused_by_name():
    model = nn.ModuleDict({"words": nn.Embedding(4, 8), "attention": nn.MultiheadAttention(8, 2)})
    lora.add_adapter(model, "words", LoRAConfig(r=2, target_modules=["words"]))
    lora.add_adapter(model, "in", LoRAConfig(r=2, target_modules=["attention"], slices={"attention": ["q"]}))
    lora.add_adapter(model, "out", LoRAConfig(r=2, target_modules=["attention"], slices={"attention": ["out_proj"]}))
    lora.add_adapter(model, "dora", LoRAConfig(r=2, target_modules=["words"], use_dora=True))
    for name, message in {
        "words": r"'words' is an nn.Embedding",
        "in": r"'attention.lora_q' adapts a raw parameter",
        "out": r"'attention.out_proj' is read raw by its nn.MultiheadAttention",
        "dora": r"'dora' has lora.use_dora at 'words'",
    }.items():
        with pytest.raises(ValueError, match=f"^per_sample: {message}"), lora.per_sample(model, [name]):
            pass
    with pytest.raises(ValueError, match=r"^align_adapters: 'dora' has lora\.use_dora"):
        lora.align_adapters(model)


def test_base_tensors_trained_with_an_adapter_are_refused(net, make_net, tmp_path):
    lora.inject_lora(net, LoRAConfig(target_modules=["stem"], modules_to_save=["head"]))
    with pytest.raises(ValueError, match=r"^add_adapter: 'head.weight' of the base is trained"):
        lora.add_adapter(net, "night", NIGHT)
    folder = lora.save_adapter(net, tmp_path)
    with pytest.raises(ValueError, match=r"^add_adapter: the adapter in .* trains 'head.bias' of the base"):
        lora.add_adapter(make_net(), "night", folder)
