"""Messages: what comes back is what was sent, how large they are, and what is refused."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings, strategies as st

from lorgnette.federate.aggregation.adapter_state import AdapterState
from lorgnette.federate.aggregation.factors import Product
from lorgnette.federate.wire.codec import Refused, Schema, Spec, decode, encode, flatten
from lorgnette.federate.wire.feedback import rounded_update
from lorgnette.federate.wire.messages import Local, Work, decode_update, decode_work, encode_update, encode_work
from lorgnette.federate.wire.quantise import dequantise, quantise, scale_count

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
TOLERANCE = {"fp32": 0.0, "fp16": 2**-11, "bf16": 2**-8, "int8": 1 / 254}
BASE = "0123456789abcdef"


def state(seed: int = 0, r: int = 3) -> AdapterState:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    factors = {
        "encoder.q": Product(random(r, 7), random(5, r)),
        "scan.x": Product(random(2, r, 4), random(2, 6, r)),
    }
    tensors = {"head.weight": random(3, 8), "head.bias": random(3), "norm.seen": torch.tensor(7)}
    return AdapterState(factors, tensors)


def work(precision: Any = "fp32", scheme: str = "svd", round: int = 4) -> Work:
    own = state()
    data = encode_work(round, scheme, precision, None, Local(seed=3), BASE, own, {})
    return decode_work(data, own, BASE)


def update(given: Work, seed: int = 1) -> bytes:
    return rounded_update(given, BASE, state(seed), {}, 12, 0.5, {"accuracy": 0.25})[0]


# ------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_message_comes_back(precision: Any):
    tensors = flatten(state(), "AB")
    schema = Schema.of(state())
    facts, back = decode(encode({"round": 3, "name": "ü"}, tensors, schema, precision), schema, precision)
    assert (facts["round"], facts["name"]) == (3, "ü")
    assert back.keys() == tensors.keys()
    for name, value in tensors.items():
        if not value.is_floating_point():
            assert torch.equal(back[name], value)
            continue
        assert back[name].dtype == torch.float32
        assert (back[name] - value).abs().max() <= TOLERANCE[precision] * value.abs().max() * 1.001
        assert precision != "fp32" or torch.equal(back[name], value)


@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=3),
    axis=st.sampled_from([-1, -2, None]),
    exponent=st.integers(-30, 30),
    seed=st.integers(0, 50),
)
@settings(max_examples=50, deadline=None)
def test_int8_is_within_half_a_level_of_each_row(shape: list[int], axis: int | None, exponent: int, seed: int):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    whole, scales = quantise(values, axis)
    assert scales.numel() == scale_count(tuple(shape), axis)
    largest = values.abs().max() if axis is None else values.abs().amax(axis, keepdim=True)
    assert ((dequantise(whole, scales, axis) - values).abs() <= largest / 254 * 1.0001).all()


def test_zeros_are_zeros():
    whole, scales = quantise(torch.zeros(3, 4), -1)
    assert dequantise(whole, scales, -1).abs().sum() == 0


@pytest.mark.parametrize("scheme", ["svd", "ffa", "stack", "alternating"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_work_and_update_come_back(scheme: str, precision: Any):
    given = work(precision, scheme)
    received = decode_update(update(given), given, BASE)
    assert (received.samples, received.loss, received.metrics) == (12, 0.5, {"accuracy": 0.25})
    for name, product in received.state.factors.items():
        for factor in "AB":
            sent = getattr(state(1).factors[name], factor)
            kept = getattr(given.state.factors[name], factor)
            wanted = sent if factor in given.trained else kept
            assert (getattr(product, factor) - wanted).abs().max() < (1e-6 if precision == "fp32" else 0.05)
    assert received.state.tensors["norm.seen"] == 7


@pytest.mark.parametrize("precision", PRECISIONS)
def test_both_sides_may_have_their_layers_in_any_order(precision: Any):
    """A server that read its journal has them sorted, a client as in its model."""
    own = state()
    turned = AdapterState(dict(reversed(own.factors.items())), dict(reversed(own.tensors.items())))
    data = encode_work(4, "svd", precision, None, Local(), BASE, own, {})
    ours, theirs = decode_work(data, own, BASE), decode_work(data, turned, BASE)
    one, other = (decode_update(update(theirs), side, BASE).state for side in (ours, theirs))
    for name, product in one.factors.items():
        assert torch.equal(product.A, other.factors[name].A)
        assert (product.B - state(1).factors[name].B).abs().max() < 0.05


def test_what_is_folded_arrives():
    own = state()
    folded = {"scan.x": Product(torch.randn(2, 4, 4), torch.randn(2, 6, 4))}
    got = decode_work(encode_work(1, "stack", "fp32", 2, Local(), BASE, own.at(2), folded), own, BASE)
    assert torch.equal(got.folded["scan.x"].B, folded["scan.x"].B)
    assert got.state.factors["encoder.q"].rank == 2


# ------------------------------------------------------------------------------------------------------------- bytes


def vit_b32(r: int = 16) -> AdapterState:
    """The adapter of q, k, v, fc1 and fc2 in CLIP ViT-B/32's vision tower, under transformers' names."""
    factors = {}
    for layer in range(12):
        for name, out, wide in (
            ("self_attn.q_proj", 768, 768),
            ("self_attn.k_proj", 768, 768),
            ("self_attn.v_proj", 768, 768),
            ("mlp.fc1", 3072, 768),
            ("mlp.fc2", 768, 3072),
        ):
            factors[f"clip.vision_model.encoder.layers.{layer}.{name}"] = Product(
                torch.randn(r, wide), torch.randn(out, r)
            )
    return AdapterState(factors)


@pytest.mark.parametrize(
    ("precision", "most"), [("fp32", 9.46e6), ("fp16", 4.74e6), ("bf16", 4.74e6), ("int8", 2.45e6)]
)
def test_bytes_of_an_adapter_of_vit_b32(precision: Any, most: float):
    """2,359,296 numbers at rank 16; the whole model has 605,109,252 bytes. With ffa, half."""
    own = vit_b32()
    sizes = {}
    for scheme in ("svd", "ffa"):
        given = decode_work(encode_work(1, scheme, precision, None, Local(), BASE, own, {}), own, BASE)
        data = encode_update(given, BASE, flatten(own, given.trained), 100, 0.1, {})
        sizes[scheme] = len(data)
        assert len(data) <= Schema.of(own, given.trained).max_bytes(precision)
    assert sum(p.A.numel() + p.B.numel() for p in own.factors.values()) == 2_359_296
    assert sizes["svd"] <= most
    assert sizes["ffa"] <= sizes["svd"] / 2 + 400  # the facts beside the tensors are as long as before
    if precision == "fp32":
        assert 605_109_252 / sizes["svd"] >= 63.9


# ------------------------------------------------------------------------------------------------- error feedback


def drift(given: Work, scheme: str, precision: Any, rounds: int = 12) -> tuple[float, float]:
    """Of a client that always trains towards the same place: what has not arrived in the end, with and without
    keeping the error, as a share of what was to arrive."""
    missing = []
    for keep in (True, False):
        errors: dict[str, torch.Tensor] = {}
        lost = dict.fromkeys(given.state.factors, 0.0)
        size = 0.0
        for round in range(rounds):
            generator = torch.Generator().manual_seed(round)
            step = {
                name: Product(
                    p.A + 0.1 * torch.randn(p.A.shape, generator=generator),
                    p.B + 0.1 * torch.randn(p.B.shape, generator=generator) + 0.05,
                )
                for name, p in given.state.factors.items()
            }
            trained = AdapterState(step, given.state.tensors)
            data, errors = rounded_update(given, BASE, trained, errors if keep else {}, 1, 0.0, {})
            arrived = decode_update(data, given, BASE).state
            for name, product in step.items():
                lost[name] = lost[name] + (product.dense() - arrived.factors[name].dense())
                size = max(size, float(product.dense().norm()))
        missing.append(max(float(total.norm()) for total in lost.values()) / size)
    return missing[0], missing[1]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_rounding_errors_do_not_add_up(precision: Any):
    """Product by product, in rounds whose factors have other axes each time (svd): what is missing in the end is what
    the last round lost, not what twelve have lost."""
    kept, forgotten = drift(work(precision, "svd"), "svd", precision)
    assert kept < 0.6 * forgotten
    assert kept < 0.01


@pytest.mark.parametrize("scheme", ["fedavg", "ffa"])
def test_element_by_element_nothing_is_lost_but_the_last_error(scheme: str):
    given, errors = work("int8", scheme), {}
    sent, wanted = torch.zeros(5, 3), torch.zeros(5, 3)
    start = given.state.factors["encoder.q"].B
    for round in range(10):
        trained = state(100 + round)
        data, errors = rounded_update(given, BASE, trained, errors, 1, 0.0, {})
        sent += decode_update(data, given, BASE).state.factors["encoder.q"].B - start
        wanted += trained.factors["encoder.q"].B - start
    assert torch.allclose(sent + errors["error:encoder.q.lora_B"], wanted, atol=1e-4)


def test_the_error_of_a_factor_waits_for_its_round():
    errors = {"error:encoder.q.lora_A": torch.ones(3, 7)}
    given = work("int8", "alternating", round=3)
    assert given.trained == "B"
    _, left = rounded_update(given, BASE, state(1), errors, 1, 0.0, {})
    assert torch.equal(left["error:encoder.q.lora_A"], errors["error:encoder.q.lora_A"])


# ------------------------------------------------------------------------------------------------------------ hostile


def forged(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The message with another header, and its tensors as they were."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def with_fact(data: bytes, **facts: Any) -> bytes:
    def change(header: dict[str, Any]) -> None:
        old = json.loads(header["__metadata__"]["lorgnette"])
        header["__metadata__"]["lorgnette"] = json.dumps(old | facts)

    return forged(data, change)


def with_entry(data: bytes, name: str, **entries: Any) -> bytes:
    return forged(data, lambda header: header.__setitem__(name, header.get(name, {}) | entries))


def poisoned(value: float) -> bytes:
    given = work()
    bad = state(1)
    bad.factors["scan.x"].B[1, 2, 0] = value
    tensors = {k: v.contiguous() for k, v in flatten(bad, "AB").items()}
    return encode_update(given, BASE, tensors, 1, 0.0, {})


GOOD = update(work())
Q = "encoder.q.lora_A"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "too few for a message"),
    "noise": (b"\x80\x04\x95" * 40, "header claims"),
    "10 GB header": (struct.pack("<Q", 10 * 2**30) + GOOD[8:], "header claims 10737418240 bytes"),
    "header beyond the end": (struct.pack("<Q", 60_000) + GOOD[8:600], "header claims"),
    "no JSON": (struct.pack("<Q", 4) + b"{{{{", "not JSON"),
    "deep JSON": (struct.pack("<Q", 50_000) + b"[" * 50_000, "not JSON"),
    "a list": (struct.pack("<Q", 2) + b"[]", "not a table"),
    "no facts": (forged(GOOD, lambda h: h.pop("__metadata__")), "no facts"),
    "another version": (with_fact(GOOD, format_version=2), "format_version"),
    "another kind": (with_fact(GOOD, kind="work"), "not an update of round 4"),
    "another round": (with_fact(GOOD, round=3), "not an update of round 4"),
    "another base": (with_fact(GOOD, base="ff"), "another base"),
    "another schema": (with_fact(GOOD, schema="ff"), "schema differs"),
    "no samples": (with_fact(GOOD, samples=0), "claims 0 samples"),
    "samples as text": (with_fact(GOOD, samples="9" * 500), "samples"),
    "metrics": (with_fact(GOOD, metrics={"a\nb": 1}), "metrics"),
    "a metric of infinity": (with_fact(GOOD, metrics={"accuracy": math.inf}), "metrics"),
    "a metric whose mean overflows": (with_fact(GOOD, metrics={"accuracy": 1e308}), "metrics"),
    "a metric that no float holds": (with_fact(GOOD, metrics={"accuracy": 10**400}), "metrics"),
    "a path in a name": (
        with_entry(GOOD, "../../etc/passwd", dtype="F32"),
        "etc/passwd', which is not a tensor",
    ),
    "line breaks in a name": (with_entry(GOOD, "a\nb" * 90, dtype="F32"), "not a tensor"),
    "a tensor less": (forged(GOOD, lambda h: h.pop(Q)), "lacks 1 of"),
    "another shape": (with_entry(GOOD, Q, shape=[3, 10**12]), "has shape"),
    "a shape that is none": (with_entry(GOOD, Q, shape="big"), "has shape 'big'"),
    "another type": (with_entry(GOOD, Q, dtype="F64"), "not of type F32"),
    "a place that is none": (with_entry(GOOD, Q, data_offsets=[0]), "no place"),
    "a place of another size": (with_entry(GOOD, Q, data_offsets=[0, 10**12]), "bytes, not 84"),
    "the same place twice": (with_entry(GOOD, Q, data_offsets=[100, 184]), "overlap"),
    "bytes behind": (GOOD + b"x" * 9, "bytes, not the"),
    "bytes missing": (GOOD[:-5], "bytes, not the"),
    "NaN": (poisoned(float("nan")), "'scan.x.lora_B' holds NaN"),
    "infinity": (poisoned(float("-inf")), "'scan.x.lora_B' holds infinity"),
    "another precision": (update(work("fp16")), "not of type F32"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_updates_are_refused_by_name(name: str):
    data, says = HOSTILE[name]
    with pytest.raises(Refused) as refusal:
        decode_update(data, work(), BASE)
    text = str(refusal.value)
    assert says in text
    assert "\n" not in text
    assert len(text) < 200


@pytest.mark.parametrize("loss", [10**400, math.inf, "low", None], ids=["vast", "inf", "text", "none"])
def test_a_loss_that_is_no_number_is_not_known(loss: Any):
    assert math.isnan(decode_update(with_fact(GOOD, loss=loss), work(), BASE).loss)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_flipped_bytes_are_refused_or_harmless(data: st.DataObject):
    """No message, however damaged, does more than being refused: or it has the right shapes and is finite."""
    broken = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        received = decode_update(bytes(broken), work(), BASE)
    except Refused:
        return
    for name, product in received.state.factors.items():
        assert product.A.shape == state().factors[name].A.shape
        assert torch.isfinite(product.A).all()


def test_scales_of_int8_are_checked_too():
    given = work("int8")
    data = update(given)
    loaded = safetensors.torch.load(data)
    loaded["scales"][3] = float("nan")
    size = struct.unpack("<Q", data[:8])[0]
    facts = json.loads(data[8 : 8 + size])["__metadata__"]
    with pytest.raises(Refused, match="NaN"):
        decode_update(safetensors.torch.save(loaded, facts), given, BASE)


def test_work_for_another_client_is_refused():
    own = state()
    data = encode_work(2, "ffa", "fp32", None, Local(), BASE, own, {})
    with pytest.raises(Refused, match="another base"):
        decode_work(data, own, "ff")
    with pytest.raises(Refused, match="other layers, ranks or sizes"):
        decode_work(data, state(r=4), BASE)
    with pytest.raises(Refused, match=r"train\.seed"):  # the A that never travels is another one
        decode_work(data, state(seed=5), BASE)
    for fact in ({"scheme": "best"}, {"trained": "A"}, {"round": 0}, {"rank": -1}, {"precision": "fp8"}):
        with pytest.raises(Refused, match="not the work"):
            decode_work(with_fact(data, **fact), own, BASE)
    with pytest.raises(Refused, match="not the work"):
        decode_work(with_fact(data, local={"steps": -3}), own, BASE)
    with pytest.raises(Refused, match="folds"):
        decode_work(with_fact(data, folded={"encoder.q": 10**9}), own, BASE)


def test_a_schema_is_told_by_names_shapes_and_roles():
    schema = Schema({"a": Spec((2, 3), "A"), "b": Spec((4,), "tensor")})
    others = [
        {"a": Spec((2, 3), "A")},
        {"a": Spec((3, 2), "A"), "b": Spec((4,), "tensor")},
        {"c": Spec((2, 3), "A"), "b": Spec((4,), "tensor")},
        {"a": Spec((2, 3), "B"), "b": Spec((4,), "tensor")},
    ]
    assert len({schema.digest, *(replace(schema, specs=specs).digest for specs in others)}) == 5
