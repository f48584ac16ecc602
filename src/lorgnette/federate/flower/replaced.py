"""What of Flower is replaced at run time: one table, applied by one function.

Everything else of Flower's is called as it is. Its inner parts (the node's protocol in `node`, the server's app in
`link`) may change with a minor version; `lorgnette.federate.flower.command.require_flower` asks for the one that was
tested, and `tests/federate/flower/test_deployed.py::test_three_sites_over_tls` runs through all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from lorgnette.federate.flower.command import FLOWER

POLL_SECONDS = 0.1  # between looks for something that is on its way


class Replaced(NamedTuple):
    """One thing of Flower's that is replaced."""

    module: str
    name: str
    """What is replaced, in that module."""
    with_what: Callable[[Any], Any]
    """From Flower's to ours. A KeyError or AttributeError says that it is not what it was."""
    buys: str
    test: str
    """The test that fails when Flower changes under it."""


def _looking_again_soon(pull_objects: Any) -> Any:
    """A message may be seen before all parts of it are there; how soon Flower looks for them again."""
    waits = {"initial_backoff": POLL_SECONDS, "backoff_cap": 1.0}
    for name in waits:
        inspect.signature(pull_objects).parameters[name]  # a KeyError where it is called otherwise
    return partial(pull_objects, **waits)


REPLACED = (
    Replaced(
        "flwr.superlink.grid.http_grid",
        "pull_objects",
        _looking_again_soon,
        "an update that takes 8 s to upload is seen within 9 s instead of 15 s: Flower waits 1, 2, 4, 8, 10 s between"
        " looks, here it is 0.1 s at first and 1 s at most; on the loopback interface no gain could be measured",
        "tests/federate/flower/test_server.py::test_an_answer_that_is_on_its_way_is_looked_for_again_soon",
    ),
)


def replace() -> None:
    """Replace what the table lists, in this process.

    Raises:
        ValueError: Flower has changed: something is not there any more.
    """
    for one in REPLACED:
        try:
            module = import_module(one.module)
            setattr(module, one.name, one.with_what(getattr(module, one.name)))
        except (ImportError, AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(
                f"Flower has no {one.module}.{one.name} as {FLOWER} has it: pip install 'lorgnette[federated]'"
            ) from None
