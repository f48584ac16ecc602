"""What a run learns from and holds out stays what it is, whatever becomes of the folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from lorgnette.common.parts import Parts

BEGAN = Parts({"a": "1", "b": "2", "c": "3"}, {"x": "8", "y": "9"}, {"z": "z is broken"})
THERE = {"a": "1", "b": "2", "c": "3", "x": "8", "y": "9"}


@pytest.mark.parametrize(
    ("change", "training", "held_out", "gone"),
    [
        ({}, "abc", "xy", ""),
        ({"new": "7"}, "abc", "xy", ""),
        ({"a": None}, "bc", "xy", "a"),
        ({"a": None, "A": "1"}, "Abc", "xy", ""),  # renamed, and in its old place
        ({"x": None, "0": "8"}, "abc", "0y", ""),
        ({"x": None}, "abc", "y", "x"),
        ({"b": "22"}, "abc", "xy", ""),  # saved anew
        ({"x": "88"}, "abc", "xy", ""),
        ({"b": "8"}, "ac", "xy", ""),  # it shows now what was held out
        ({"b": "8", "x": None}, "ac", "by", ""),
        ({"a": "8", "x": "1"}, "bc", "xy", ""),  # swapped
        (dict.fromkeys(THERE), "", "", "abcxy"),
    ],
)
def test_items_are_known_by_name_or_by_content(change, training: str, held_out: str, gone: str):
    there = {name: digest for name, digest in {**THERE, **change}.items() if digest is not None}
    assert BEGAN.found_in(there) == (list(training), list(held_out), list(gone))


names = st.sampled_from("abcdefgh")


@given(st.dictionaries(names, st.sampled_from("12345"), max_size=8), st.dictionaries(names, st.sampled_from("12345")))
def test_what_was_held_out_is_never_learnt_from(before: dict[str, str], there: dict[str, str]):
    half = sorted(before)[: len(before) // 2]
    parts = Parts({n: d for n, d in before.items() if n not in half}, {n: d for n, d in before.items() if n in half})
    training, held_out, _ = parts.found_in(there)
    assert not set(training) & set(held_out)
    assert not set(training) & set(half)
    for name in training:  # of a content that was held out only where it was learnt from under this name all along
        assert there[name] not in parts.held_out.values() or parts.training.get(name) == there[name]


def test_a_file_learnt_from_and_scored_stays_both():
    both = Parts({"a": "1", "b": "2"}, {"a": "1"})
    assert both.found_in({"a": "1", "b": "2"}) == (["a", "b"], ["a"], [])


def test_they_are_kept_in_a_file(tmp_path: Path):
    assert Parts.read(tmp_path / "data.json") is None
    BEGAN.write(tmp_path / "data.json")
    assert Parts.read(tmp_path / "data.json") == BEGAN
    for wrong in ("[]", '{"format_version": 2}', '{"format_version": 1, "training": 3}'):
        (tmp_path / "data.json").write_text(wrong)
        with pytest.raises(ValueError, match=r"data\.json"):
            Parts.read(tmp_path / "data.json")


def test_in_words():
    assert BEGAN.in_words() == "Learnt from 3 images, scored on 2, 1 left out: z is broken."
    assert replace(BEGAN, left_out={}).in_words() == "Learnt from 3 images, scored on 2."
    many = replace(BEGAN, left_out={str(n): f"{n} is broken" for n in range(12)})
    assert many.in_words(2) == "Learnt from 3 images, scored on 2, 12 left out: 0 is broken; 1 is broken; and 10 more."
