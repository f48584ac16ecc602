"""Where jobs are done: a worker process for each device, and a second one that is warm for when the first is ended.

Models live in the worker, not in the server: a job is cancelled by ending the worker, whatever it is at, and a picture
that crashes a decoder or takes all memory takes no more than the worker with it.

    server -> worker   one line of JSON: the job, see `lorgnette.web.worker`
    worker -> server   lines of JSON: progress, points of a curve, at last the result or why there is none
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorgnette.web.jobs import Job, Jobs, State
from lorgnette.web.settings import Settings

LOST = "the worker that did it has ended: perhaps there was not the memory for it; a smaller picture or scale may do"


class Place:
    """One device: takes jobs, one after the other, and has them done.

    Args:
        jobs: to take from.
        settings: of the server.
        home: the server's temporary folder.
    """

    def __init__(self, jobs: Jobs, settings: Settings, home: Path):
        self._jobs, self._settings, self._home = jobs, settings, home
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._worker, self._spare = self._start(), self._start()
        self._thread = threading.Thread(target=self._work, name="place", daemon=True)
        self._thread.start()

    def enough(self, job: Job) -> None:
        """Tell a training that it has learnt enough: it keeps what it has."""
        with self._lock:
            if self._job is job:
                self._worker.send_signal(signal.SIGINT)

    def close(self) -> None:
        """End the workers. The jobs were stopped before."""
        self._thread.join(10)
        with self._lock:
            for worker in (self._worker, self._spare):
                worker.kill()
                worker.wait()
                _hang_up(worker)

    def _start(self) -> subprocess.Popen[bytes]:
        given = {
            "home": str(self._home),
            "device": self._settings.device,
            "folders": [str(folder) for folder in self._settings.folders(self._home)],
            "limits": asdict(self._settings.limits),
        }
        words = [sys.executable, "-m", "lorgnette.web.worker", json.dumps(given)]
        # In a session of its own: Ctrl-C at the terminal is for the server, which ends jobs in good order.
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)

    def _end(self, job: Job) -> None:
        with self._lock:
            if self._job is job:
                self._worker.kill()

    def _work(self) -> None:
        while (job := self._jobs.take(self._end)) is not None:
            with self._lock:
                if self._worker.poll() is not None:  # it was ended with the job before
                    _hang_up(self._worker)
                    self._worker, self._spare = self._spare, self._start()
                self._job, worker = job, self._worker
                if job.state is not State.RUNNING:  # cancelled in between
                    worker.kill()
            late = threading.Timer(job.seconds, worker.kill)
            late.daemon = True
            late.start()
            answer = self._ask(worker, job)
            timed_out = not late.is_alive()
            late.cancel()
            with self._lock:
                self._job = None
                if "lost" in answer or answer.get("memory", 0) > self._settings.limits.worker_bytes:
                    worker.kill()
                    worker.wait()  # so that nothing writes into the job's folder any more
            error = answer.get("failed", "")
            if "lost" in answer:
                error = f"it took longer than the {job.seconds:g} s that it may" if timed_out else LOST
            self._jobs.give_back(job, answer.get("done"), error)

    def _ask(self, worker: subprocess.Popen[bytes], job: Job) -> dict[str, Any]:
        """Have a job done; returns the last thing that the worker says."""
        assert worker.stdin is not None
        assert worker.stdout is not None
        request = {"verb": job.verb, "source": str(job.source), "settings": job.settings}
        try:
            worker.stdin.write(json.dumps(request).encode() + b"\n")
            worker.stdin.flush()
            for line in worker.stdout:
                said = json.loads(line)
                job.done, job.total = said.get("progress", (job.done, job.total))
                job.points += said.get("points", [])
                if "done" in said or "failed" in said:
                    return said
        except (OSError, ValueError):  # it is gone, in the middle of a line even
            pass
        return {"lost": True}


def _hang_up(worker: subprocess.Popen[bytes]) -> None:
    for stream in (worker.stdin, worker.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
