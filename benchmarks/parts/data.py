"""Where pictures and volumes lie that no package brings."""

from __future__ import annotations

import os
from pathlib import Path


def data(*names: str) -> Path:
    """A folder within the one that the variable LORGNETTE_DATA names; ends the program, in one line, without it."""
    if "LORGNETTE_DATA" not in os.environ:
        raise SystemExit(f"LORGNETTE_DATA is not set: name the folder that holds {'/'.join(names)}")
    return Path(os.environ["LORGNETTE_DATA"]).joinpath(*names)
