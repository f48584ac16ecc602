"""Folders on the Hugging Face Hub, under the name `hub:user/name@revision`.

Only what cannot run code is taken: safetensors, JSON, YAML and Markdown, in the repository's top folder. The token is
the one that huggingface_hub finds itself (`HF_TOKEN`, or what `hf auth login` stored); it is never shown.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorgnette.common.files import write_text
from lorgnette.common.lazy import needed

PREFIX = "hub:"
KINDS = (".json", ".md", ".safetensors", ".yaml", ".yml")
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
MAX_BYTES = 8 * 2**30
MAX_FILES = 200
_TAKEN: dict[str, Any] = {
    "allow_patterns": [f"*{kind}" for kind in KINDS],
    "ignore_patterns": [".*", "*/*", "*\\*", "*:*"],  # no folders, of no system
}
_commits: dict[Name, str] = {}
"""The commit that was last taken under a name, in this process."""


@dataclass(frozen=True)
class Name:
    """A repository, at a branch, a tag or a commit."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def is_hub(text: str | os.PathLike[str]) -> bool:
    """Whether a text names a folder on the hub."""
    return os.fspath(text).startswith(PREFIX)


def hub_name(text: str | os.PathLike[str], revision: str | None = None) -> Name:
    """What `hub:user/name` or `hub:user/name@revision` means.

    Raises:
        ValueError: it is no such name, or the revision is given twice, in one line.
    """
    text = os.fspath(text)
    match = re.fullmatch(rf"{PREFIX}(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w][\w./-]*))?", text, re.ASCII)
    if match is None or any(word in text for word in ("..", "--", "/.", "//")):
        raise ValueError(f"{text!r} names nothing on the hub: hub:user/name or hub:user/name@revision does")
    if revision is not None and match["revision"] is not None:
        raise ValueError(f"{text} and revision={revision!r} both say a revision: give one")
    return Name(match["repo"], revision or match["revision"])


def downloaded(text: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of a repository on this machine, in huggingface_hub's cache.

    A branch or tag is taken as the commit it stands for now, and that is told on stderr with what is left out. Where
    the hub cannot be reached, the copy that was taken last under this name stands for it, and that is told too.

    Args:
        text: `hub:user/name`, with `@revision` or without.
        revision: a branch, a tag or a commit; unset: the main branch.

    Raises:
        ValueError: the hub cannot be reached and there is no copy; no such repository or revision, none of its files
            is of a kind that is taken, or they are too large, in one line.
    """
    name = hub_name(text, revision)
    hub = library(str(name))
    with one_line(name):
        try:
            info = hub.HfApi().model_info(name.repo, revision=name.revision, files_metadata=True, timeout=10)
        except _unreachable():
            return _copy_at_hand(hub, name)
        except hub.errors.HfHubHTTPError as error:
            if error.response.status_code < 500:
                raise
            return _copy_at_hand(hub, name)
        commit = str(info.sha)
        _check(name, {file.rfilename: file.size or 0 for file in info.siblings or ()})
        folder = Path(hub.snapshot_download(name.repo, revision=commit, **_TAKEN))
    if name.revision != commit:
        # As huggingface_hub notes it, for when the hub is out of reach.
        write_text(folder.parents[1] / "refs" / (name.revision or "main"), commit)
        _tell(f"{name} is {commit} now; {PREFIX}{name.repo}@{commit} stays so")
    _commits[name] = commit
    return folder


def pinned(text: str) -> str:
    """A name with the commit that was taken under it in place of a branch; another text as it is."""
    if not is_hub(text):
        return text
    name = hub_name(text)
    if name not in _commits:
        downloaded(text)
    return str(Name(name.repo, _commits[name]))


def taken(files: Iterable[str]) -> list[str]:
    """Those files of a repository that are taken from it, or sent to it."""
    from huggingface_hub.utils import filter_repo_objects

    return list(filter_repo_objects(files, **_TAKEN))


def _check(name: Name, sizes: Mapping[str, int]) -> None:
    """Refuse a repository without weights, or with too many bytes; tell what is left out of one."""
    files = taken(sizes)
    others = sorted(sizes.keys() - {*files, ".gitattributes"})
    if not any(file.endswith(".safetensors") for file in files):
        pickles = [file for file in others if file.endswith(PICKLES)]
        why = f"{pickles[0]!r} is a pickle and is not taken" if pickles else "it holds none"
        raise ValueError(f"{name}: only weights as .safetensors are taken, and {why}")
    if len(files) > MAX_FILES or sum(sizes[file] for file in files) > MAX_BYTES:
        raise ValueError(f"{name}: more than {MAX_FILES} files or {MAX_BYTES} bytes are not taken")
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        _tell(f"{name}: left out {', '.join(map(repr, others[:5]))}{more}; taken are {' '.join(KINDS)} at the top")


def _copy_at_hand(hub: Any, name: Name) -> Path:
    """The copy that is here, where the hub is out of reach."""
    off = hub.constants.is_offline_mode()
    why = "HF_HUB_OFFLINE is set" if off else f"the hub at {hub.constants.ENDPOINT} cannot be reached"
    try:
        folder = Path(hub.snapshot_download(name.repo, revision=name.revision, local_files_only=True, **_TAKEN))
    except hub.errors.LocalEntryNotFoundError:
        raise ValueError(f"{name}: {why}, and no whole copy of it lies in {hub.constants.HF_HUB_CACHE}") from None
    _commits[name] = folder.name
    _tell(f"{name}: {why}; taken is the copy of {folder.name} that lies here")
    return folder


def library(what: str) -> Any:
    """huggingface_hub, for what needs it.

    Raises:
        ValueError: it is not installed, in one line.
    """
    hub, _, utils = (needed(f"huggingface_hub{part}", "'lorgnette[hub]'", what) for part in ("", ".errors", ".utils"))
    if not sys.stderr.isatty():  # its bars would fill a log
        utils.disable_progress_bars()
    return hub


def _unreachable() -> tuple[type[Exception], ...]:
    """The errors of a hub that does not answer. The library of its client is another one from version to version."""
    from huggingface_hub import errors, utils

    client = sys.modules[type(utils.get_session()).__module__.partition(".")[0]]
    return errors.OfflineModeIsEnabled, client.TransportError


@contextmanager
def one_line(name: Name) -> Iterator[None]:
    """What huggingface_hub raises becomes a line of ours, which holds nothing of a request."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.RevisionNotFoundError:
        raise ValueError(f"{name}: the repository has no revision {name.revision!r}") from None
    except (errors.RepositoryNotFoundError, errors.GatedRepoError):
        raise ValueError(
            f"{name}: the hub knows no such repository, or shows it only to some: HF_TOKEN, or `hf auth login`, says"
            " who you are"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        why = f"the hub answers with status {status}"
        if status in (401, 403):
            why = "the hub asks for a token that may do that: HF_TOKEN, or `hf auth login`"
        raise ValueError(f"{name}: {why}") from None
    except errors.LocalEntryNotFoundError:
        raise ValueError(f"{name}: the hub at {constants.ENDPOINT} broke off; nothing of it is used") from None
    except _unreachable():
        raise ValueError(
            f"{name}: the hub at {constants.ENDPOINT} cannot be reached, or broke off; nothing of it is used"
        ) from None
    except (OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name}: not all of it came through ({reason}); nothing of it is used") from None


def _tell(text: str) -> None:
    print(f"lorgnette: {text}", file=sys.stderr)
