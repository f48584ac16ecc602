"""The completer that ships."""

from __future__ import annotations

from pathlib import Path

from lorgnette.common.tensors import check_state, float_state, read_tensors
from lorgnette.systems.mesh.slices.network import Completer

SHIPPED = Path(__file__).parent / "base"


def load_completer(path: str | Path = SHIPPED / "model.safetensors") -> Completer:
    """A completer with the weights of a file, in eval mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or tensors that do not fit, in one line.
    """
    model, source = Completer(), str(path)
    state = float_state(read_tensors(path), source)
    check_state(state, model.state_dict(), source)
    model.load_state_dict(state)
    return model.eval()
