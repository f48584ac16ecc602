"""Jobs of many clients, one at a time for each device: in turn, bounded, and gone at once when they are cancelled.

Knows nothing of the web and nothing of models. What does the work (`lorgnette.web.places`) takes jobs here.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from lorgnette.web.settings import Limits


class State(StrEnum):
    """What has become of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


OVER = (State.DONE, State.FAILED, State.CANCELLED)


class Full(ValueError):
    """There is no room for a job or for what it brings; later there may be."""


class Stopping(ValueError):
    """The server takes no jobs any more."""


@dataclass(eq=False)
class Job:
    """One piece of work. Only `Jobs` changes it."""

    client: str
    """Whose it is: clients take turns."""
    verb: str
    """What is done."""
    settings: dict[str, Any]
    """How, as JSON can hold it."""
    source: Path
    """What was uploaded. It lies alone in a folder within `folder`."""
    seconds: float
    """How long it may run."""
    bytes: int = 0
    """On the disk."""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    """Cannot be guessed: who knows it may look at the job."""
    state: State = State.WAITING
    done: int = 0
    """Pieces that are done, such as tiles."""
    total: int = 0
    """Pieces that there are; 0 while that is not known."""
    points: list[dict[str, Any]] = field(default_factory=list)
    """What a training has said of itself so far."""
    result: dict[str, Any] = field(default_factory=dict)
    """What came of it: names of files in `folder`, and what is said of them."""
    error: str = ""
    """Why it failed, in one line."""
    created: float = field(default_factory=time.monotonic)
    started: float | None = None
    ended: float = 0.0
    """When it was over, by `time.monotonic`; 0 before."""
    held: int = 0
    """How many read its results just now: it is not forgotten meanwhile."""
    forgotten: bool = False
    """It is not told of any more; its files go when nobody reads them."""
    over: threading.Event = field(default_factory=threading.Event)
    _listeners: list[Callable[[], object]] = field(default_factory=list)

    def when_over(self, listener: Callable[[], object]) -> None:
        """Call that once the job is over, from any thread; at once where it is."""
        self._listeners.append(listener)
        if self.over.is_set():
            listener()

    @property
    def folder(self) -> Path:
        """Its own: what was uploaded, and what becomes of it. Nothing is read or written elsewhere."""
        return self.source.parents[1]

    @property
    def seconds_left(self) -> float | None:
        """Until it is done, as far as the pieces that are done tell; None where they do not yet."""
        if self.state is not State.RUNNING or self.started is None or not (0 < self.done <= self.total):
            return None
        return (time.monotonic() - self.started) / self.done * (self.total - self.done)


class Jobs:
    """All jobs of a server. Every method may be called from any thread.

    Args:
        limits: how many, and how much.
        on_over: is called with each job that is over, outside of the lock.
    """

    def __init__(self, limits: Limits, on_over: Callable[[Job], None] = lambda job: None):
        self._limits, self._on_over = limits, on_over
        self._changed = threading.Condition()
        self._known: dict[str, Job] = {}  # in the order in which they came
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()  # by client, whose turn is next first
        self._running: dict[Job, Callable[[], None]] = {}  # with what ends it
        self._reserved = 0
        self._stopping = False

    def reserve(self, amount: int) -> None:
        """Take room on the disk for an upload, until `release`; results that were kept go, the oldest first.

        Raises:
            Full: there is no room.
            Stopping: the server stops.
        """
        with self._changed:
            self._check_open()
            self._forget_old(amount)
            if self._stored() + amount > self._limits.stored_bytes:
                raise Full("the server's disk is full of what others wait for; later there may be room")
            self._reserved += amount

    def release(self, amount: int) -> None:
        """Give back what was reserved."""
        with self._changed:
            self._reserved -= amount

    def check_room(self, client: str) -> None:
        """Refuse a client before it uploads what could not be taken; see `submit`."""
        with self._changed:
            self._check_open()
            if sum(map(len, self._waiting.values())) >= self._limits.waiting:
                raise Full(f"{self._limits.waiting} jobs wait already, as many as may; later there may be room")
            if len(self._waiting.get(client, ())) >= self._limits.waiting_each:
                raise Full(f"{self._limits.waiting_each} jobs of yours wait already, as many as may")

    def submit(self, job: Job) -> None:
        """Let a job wait for its turn.

        Raises:
            Full: too many wait.
            Stopping: the server stops.
        """
        with self._changed:
            self.check_room(job.client)
            self._known[job.id] = job
            self._waiting.setdefault(job.client, deque()).append(job)
            self._forget_old(0)
            self._changed.notify()

    def get(self, id: str) -> Job | None:
        """The job of that id, if it is still known."""
        job = self._known.get(id)
        return None if job is None or job.forgotten else job

    def of(self, client: str) -> list[Job]:
        """The jobs of a client that are not over."""
        with self._changed:
            return [job for job in self._known.values() if job.client == client and job.state not in OVER]

    def ahead(self, job: Job) -> int:
        """How many jobs come before a waiting one, as things are now; those that run are not counted."""
        with self._changed:
            order = list(self._waiting)
            if job.state is not State.WAITING:
                return 0
            mine = order.index(job.client)
            before = self._waiting[job.client].index(job)
            others = (
                min(len(self._waiting[client]), before + (place < mine))
                for place, client in enumerate(order)
                if place != mine
            )
            return before + sum(others)

    def cancel(self, job: Job) -> bool:
        """End a job; its place is free at once. False where it was over already."""
        with self._changed:
            if job.state in OVER:
                return False
            waited = job.state is State.WAITING
            if waited:
                self._waiting[job.client].remove(job)
                if not self._waiting[job.client]:
                    del self._waiting[job.client]
            job.state = State.CANCELLED
            end = self._running.get(job)
        if end is not None:
            end()
        elif waited:
            self._ended(job)
        return True

    def forget(self, job: Job) -> None:
        """End a job, and remove what it left."""
        self.cancel(job)
        with self._changed:
            if job.held or not job.over.is_set():  # somebody reads its files just now, or it is still being ended
                job.ended, job.forgotten = -self._limits.kept_seconds, True  # it goes at the next occasion
            else:
                self._remove(job)

    def take(self, end: Callable[[Job], None]) -> Job | None:
        """The next job, of the client whose turn it is: waits for one. None once the server stops.

        Args:
            end: ends the work on the job at once; is called from another thread where the job is cancelled.
        """
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            if self._stopping:
                return None
            client, queue = next(iter(self._waiting.items()))
            job = queue.popleft()
            del self._waiting[client]
            if queue:
                self._waiting[client] = queue  # behind all others
            job.state, job.started = State.RUNNING, time.monotonic()
            self._running[job] = lambda: end(job)
            return job

    def give_back(self, job: Job, result: dict[str, Any] | None = None, error: str = "") -> None:
        """A job that was taken is over: with a result, or an error; a cancelled one stays cancelled."""
        size = sum(file.stat().st_size for file in job.folder.rglob("*") if file.is_file())
        with self._changed:
            self._running.pop(job, None)
            if job.state is State.RUNNING:
                job.state = State.FAILED if result is None else State.DONE
                job.result, job.error = result or {}, error
            job.bytes = size
        self._ended(job)

    def counts(self) -> dict[str, int]:
        """How many jobs wait, run and are known, and the bytes they take on the disk."""
        with self._changed:
            waiting = sum(map(len, self._waiting.values()))
            return {"waiting": waiting, "running": len(self._running), "known": len(self._known),
                    "stored_bytes": self._stored()}  # fmt: skip

    @property
    def is_open(self) -> bool:
        """Whether jobs are taken."""
        return not self._stopping

    def stop(self, seconds: float) -> None:
        """Take no more jobs, cancel those that wait, let those that run go on for a while, then cancel them too."""
        with self._changed:
            self._stopping = True
            waiting = [job for queue in self._waiting.values() for job in queue]
            self._changed.notify_all()
        for job in waiting:
            self.cancel(job)
        until = time.monotonic() + seconds
        while (running := list(self._running)) and time.monotonic() < until:
            running[0].over.wait(max(0.0, min(0.1, until - time.monotonic())))
        for job in list(self._running):
            self.cancel(job)
            job.over.wait(5)

    def _check_open(self) -> None:
        if self._stopping:
            raise Stopping("the server is being stopped and takes no more jobs")

    def _stored(self) -> int:
        return self._reserved + sum(job.bytes for job in self._known.values())

    def _ended(self, job: Job) -> None:
        if not job.forgotten:
            job.ended = time.monotonic()
        if job.state is not State.DONE:
            shutil.rmtree(job.folder, ignore_errors=True)
            job.bytes = 0
        self._on_over(job)
        job.over.set()
        for listener in job._listeners:
            listener()

    def _forget_old(self, needed: int) -> None:
        now = time.monotonic()
        free = (job for job in self._known.values() if job.over.is_set() and not job.held)
        over = sorted(free, key=lambda job: job.ended)
        for place, job in enumerate(over):
            too_old = now - job.ended > self._limits.kept_seconds
            too_many = len(over) - place > self._limits.kept
            if too_old or too_many or self._stored() + needed > self._limits.stored_bytes:
                self._remove(job)

    def _remove(self, job: Job) -> None:
        self._known.pop(job.id, None)
        shutil.rmtree(job.folder, ignore_errors=True)
