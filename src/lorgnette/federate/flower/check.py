"""A site's dry run: everything that could stop it in the middle of the rounds, tried before they begin."""

from __future__ import annotations

import datetime
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lorgnette.common.parts import LeftOut
from lorgnette.federate.deploy.deployment import Deployment, read_deployment
from lorgnette.federate.deploy.reach import reachable
from lorgnette.federate.flower.command import require_flower

CLOCK_SECONDS = 30.0
DAYS = 14


class Finding(NamedTuple):
    """One thing that was tried."""

    what: str
    good: bool
    says: str


def check_site(folder: str | os.PathLike[str], given: Mapping[str, Any], strict: bool = False) -> Iterator[Finding]:
    """Try what a site needs, one thing after another; the rest is tried even where one fails.

    Args:
        folder: the site's.
        given: its own settings by flat name, such as `data.root`.
        strict: data of which something is left out is wrong, not only named.

    Raises:
        FileNotFoundError, ValueError: there are no settings to check against.
    """
    folder = Path(folder)
    deployment = read_deployment(folder)
    yield _tried("Flower", require_flower)
    yield _tried("own key", lambda: _own_key(folder))
    yield _tried("certificate", lambda: _authority(folder))
    yield _tried("server", lambda: _server(deployment, folder))
    yield from _data_and_model(folder, deployment, given, strict)


def _tried(what: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, attempt())
    except (ValueError, OSError) as error:
        return Finding(what, False, " ".join(str(error).split()))


def _own_key(folder: Path) -> str:
    from lorgnette.federate.deploy.keys import private_key_matches, require_private

    key = folder / "node.key"
    if not key.is_file():
        raise FileNotFoundError(f"no {key}: it comes with the folder, or from ssh-keygen (docs)")
    require_private(key)
    if not private_key_matches(key, folder / "node.pub"):
        raise ValueError(f"{key} and node.pub are not one pair: the server would not know this site")
    return "private, and the pair of node.pub"


def _authority(folder: Path) -> str:
    from lorgnette.federate.deploy.certificates import certificate_end

    end = certificate_end(folder / "ca.crt")
    days = (end - datetime.datetime.now(datetime.UTC)).days
    if days < DAYS:
        raise ValueError(f"ca.crt holds until {end:%Y-%m-%d}, {days} days: ask the server's operator for new keys")
    return f"holds until {end:%Y-%m-%d}"


def _server(deployment: Deployment, folder: Path) -> str:
    ahead = reachable(deployment.address, folder / "ca.crt")
    if abs(ahead) > CLOCK_SECONDS:
        raise ValueError(f"reachable, but its clock is {ahead:+.0f} s from ours; up to {CLOCK_SECONDS:.0f} s work")
    return f"{deployment.address} answers, its certificate is right, clocks differ by {abs(ahead):.0f} s"


def _data_and_model(folder: Path, deployment: Deployment, given: Mapping[str, Any], strict: bool) -> Iterator[Finding]:
    from lorgnette.federate.deploy.data_holder import open_site

    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", LeftOut)
            site = open_site(folder, given)
    except (ValueError, OSError) as error:
        yield Finding("data and model", False, " ".join(str(error).split()))
        return
    enough = site.samples >= deployment.min_samples
    noted = [str(warning.message) for warning in said if warning.category is LeftOut]
    words = [f"{site.samples} samples", f"{deployment.min_samples} are needed", *noted]
    yield Finding("data", enough and not (strict and noted), "; ".join(words))
    for what, name in (("base model", "base"), ("adapter", "schema")):
        wanted, found = getattr(deployment, name), site.facts[name]
        alike = found == wanted
        yield Finding(what, alike, f"{found}, as at the server" if alike else f"{found}; the server has {wanted}")
