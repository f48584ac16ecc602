"""A folder to the Hugging Face Hub."""

from __future__ import annotations

import os

from lorgnette.checkpoint import LEARNT_FILE, MODEL_FILE, RECIPE_FILE
from lorgnette.common.hub import Name, hub_name, library, one_line
from lorgnette.lora.files.commit import MANIFEST, PEFT_CONFIG, WEIGHTS
from lorgnette.sharing.parcel import Parcel, Terms, pack

OURS = (LEARNT_FILE, MANIFEST, MODEL_FILE, PEFT_CONFIG, RECIPE_FILE, WEIGHTS)
"""Files that must be of one and the same thing."""


def push(
    folder: str | os.PathLike[str],
    name: str,
    terms: Terms | None = None,
    base: str | None = None,
    private: bool = False,
) -> str:
    """Share an adapter or a whole model on the hub, in one commit, with a model card.

    The token is the one that huggingface_hub finds (`HF_TOKEN`, or what `hf auth login` stored). The folder stays as
    it is, whatever happens.

    Args:
        folder, terms, base: see `pack`.
        name: `hub:user/name`; made if it is not there.
        private: make it so that only you see it; without effect on what is there already.

    Returns:
        The name with the commit, by which it stays the same: `hub:user/name@COMMIT`.

    Raises:
        FileNotFoundError, ValueError: see `pack`; or the hub cannot be reached, or refuses; in one line.
    """
    library(f"sharing as {name}")
    with pack(folder, name, terms, base) as parcel:
        return push_parcel(parcel, hub_name(name), private)


def push_parcel(parcel: Parcel, target: Name, private: bool = False) -> str:
    """Send what is packed; returns the name with the commit.

    Raises:
        ValueError: the hub cannot be reached, or refuses, in one line.
    """
    if target.revision is not None:
        raise ValueError(f"{target}: a push goes to the main branch; leave @{target.revision} out")
    hub = library(str(target))
    api = hub.HfApi()
    with one_line(target):
        api.create_repo(target.repo, private=private or None, exist_ok=True)
        there = {file.rfilename for file in api.model_info(target.repo).siblings or ()}
        commit = api.create_commit(
            target.repo,
            [
                *(hub.CommitOperationAdd(file, parcel.folder / file) for file in parcel.files),
                *(hub.CommitOperationDelete(file) for file in OURS if file in there and file not in parcel.files),
            ],
            commit_message="Share by lorgnette push",
        )
    return str(Name(target.repo, commit.oid))
