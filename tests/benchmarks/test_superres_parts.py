"""The networks with a part left out are those that are named, and a training that is done is not done again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.benchmarks.scripts import imported

from lorgnette.images.file import Image, write_image
from lorgnette.images.scenes import drawn
from lorgnette.systems.superres.coords import make_coord


@pytest.fixture(scope="module")
def script() -> Any:
    return imported("superres_parts")


def colours(network: Any) -> torch.Tensor:
    inp = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        return network.eval()(inp, make_coord((24, 24))[None])


def test_what_is_left_out_is_without_effect(script: Any) -> None:
    whole, unmodulated, unplaced = (
        script.made(script.PARTS[name], 0) for name in ("whole", "without modulation", "without position")
    )

    states = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    for name in ("hypernet_q.layers.2.weight", "hypernet_q.layers.2.bias"):  # of all layers' scales and shifts alone
        states[name][: sum(whole.splits[:2])] += torch.randn_like(states[name][: sum(whole.splits[:2])])
    assert whole.hypernet_q.layers[-1].weight.shape[0] == sum(whole.splits)
    for network, matters in ((whole, True), (unmodulated, False)):
        before = colours(network)
        network.load_state_dict(states)
        assert torch.equal(before, colours(network)) != matters

    place = unplaced.imnet_q.layers[0].weight
    before = colours(unplaced)
    with torch.no_grad():
        place[:, -2:] += 1  # what sees the place of a point
    assert torch.equal(before, colours(unplaced))
    assert "without attention across scales" in script.PARTS
    assert not hasattr(script.PARTS["without attention across scales"](), "cs_attn")


def test_encoders_have_about_as_many_parameters(script: Any) -> None:
    sizes = [sum(p.numel() for p in make().parameters()) for make in script.ENCODERS.values()]
    assert len(sizes) == 3
    assert max(sizes) <= 1.05 * min(sizes)


@pytest.mark.slow
def test_a_table_of_trainings_and_none_twice(script: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    for number in range(3):
        pixels = drawn("lines", seed=number, size=(144, 144))
        write_image(tmp_path / "pictures" / f"{number}.png", Image(pixels))
    words = ["parts", "--data.root", "pictures", "--test", "pictures", "--steps", "2", "--json", "lines.jsonl"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["superres_parts.py", *words])
    monkeypatch.setattr(script, "SCALES", (2.0,))
    monkeypatch.setattr(script, "PARTS", {name: script.PARTS[name] for name in ("whole", "without position")})
    script.main()
    printed = capsys.readouterr().out
    assert all(any(line.lstrip("| ").startswith(name) for line in printed.splitlines()) for name in script.PARTS)
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 2
    monkeypatch.setattr(script, "trained", None)
    script.main()
    assert capsys.readouterr().out == printed
