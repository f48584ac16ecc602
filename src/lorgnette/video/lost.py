"""What of a clip its output could not keep, in sentences. Imports neither av nor torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lorgnette.video.clip import Beside


def of_file(before: Sequence[Beside], after: Sequence[Beside], where: str) -> list[str]:
    """What of `before` is not in `after`, in sentences; `where` names the kind of output, such as '.mp4'."""
    missing = list((Counter(before) - Counter(after)).elements())
    gone = Counter(subject for subject, name, _ in missing if not name)
    lines = [f"{subject}{_times(count)} does not go into {where} and was left out" for subject, count in gone.items()]
    chapters = sum(name == "chapter" for _, name, _ in missing)
    parts = [f"{chapters} chapter{'s' * (chapters > 1)}"] if chapters else []
    for subject, name, text in missing:
        if name and name != "chapter" and subject not in gone:
            shown = name if name.startswith("tag ") else f"{name} {text}"
            parts.append(f"{shown} of the {subject}" if subject else shown)
    return [*lines, f"not kept in {where}: {', '.join(parts)}"] if parts else lines


def of_frames(frames: Sequence[Mapping[str, Any]], where: str, kept: Sequence[str] = ()) -> list[str]:
    """What came with frames, as the journal noted it under "beside", and is none of `kept`, in sentences."""
    found = Counter(name for frame in frames for name in frame.get("beside", ()) if name not in kept)
    return [f"{name} of {count} frame{'s' * (count > 1)} not kept in {where}" for name, count in sorted(found.items())]


def _times(count: int) -> str:
    return f", {count} times," if count > 1 else ""
