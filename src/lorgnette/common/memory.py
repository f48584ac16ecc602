"""How much memory is free."""

from __future__ import annotations

from pathlib import Path

_SYSTEM, _PROCESS = Path("/proc/meminfo"), Path("/proc/self/status")
_GROUP = Path("/sys/fs/cgroup")
# Of a container: its limit, what is taken, and the name of what of that is files which can be forgotten (version 2, 1).
_LIMITS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def free_memory() -> int | None:
    """Bytes that this process may still take, within the limit of its container; None where Linux does not say."""
    known = [
        _bytes(_SYSTEM, "MemAvailable:", 1024),
        _of_the_process(),
        *(_of_the_container(*names) for names in _LIMITS),
    ]
    return min((free for free in known if free is not None), default=None)


def _of_the_process() -> int | None:
    """Within what `ulimit -v` allows."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        return None if limit == resource.RLIM_INFINITY else max(0, limit - (_bytes(_PROCESS, "VmSize:", 1024) or 0))
    except (ImportError, OSError):
        return None


def _of_the_container(limit: str, taken: str, statistics: str, files: str) -> int | None:
    try:
        free = int((_GROUP / limit).read_text()) - int((_GROUP / taken).read_text())
    except (OSError, ValueError):  # 'max', or no container
        return None
    return max(0, free + (_bytes(_GROUP / statistics, files) or 0))


def _bytes(file: Path, name: str, unit: int = 1) -> int | None:
    """The number after a name in a file of lines."""
    try:
        found = dict(line.split()[:2] for line in file.read_text().splitlines() if len(line.split()) > 1)
        return int(found[name]) * unit
    except (OSError, KeyError, ValueError):
        return None
