"""A server without its doors: a temporary folder, jobs, and the places where they are done.

The API (`lorgnette.web.api`) and the page (`lorgnette.web.page.build`) are two doors to the same one.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from lorgnette.web.jobs import Job, Jobs
from lorgnette.web.metrics import Metrics
from lorgnette.web.offered import Offer, offers
from lorgnette.web.places import Place
from lorgnette.web.settings import Settings


class Server:
    """Does jobs from when it is made until it is closed.

    Args:
        settings: where it keeps to.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.home = Path(tempfile.mkdtemp(prefix="lorgnette-serve-"))
        (self.home / "jobs").mkdir()
        self.jobs = Jobs(settings.limits, lambda job: self.metrics.over(job))
        self.metrics = Metrics(self.jobs.counts)
        self.place = Place(self.jobs, settings, self.home)

    def offers(self) -> list[Offer]:
        """The adapters that there are."""
        return offers(self.settings.folders(self.home))

    def new_source(self, name: str) -> Path:
        """Where an upload of that name goes, in a new folder of its own."""
        folder = Path(tempfile.mkdtemp(dir=self.home / "jobs")) / "upload"
        folder.mkdir()
        return folder / file_name(name)

    def submit(self, client: str, verb: str, settings: dict[str, Any], source: Path, seconds: float = 0) -> Job:
        """Let a job wait for its turn; where there is no room its folder is removed.

        Args:
            client: whose it is.
            verb: one of `lorgnette.web.worker.VERBS`.
            settings: of the verb.
            source: from `new_source`, and written.
            seconds: more than other jobs that it may run.

        Raises:
            Full: too many wait.
            Stopping: the server stops.
        """
        seconds += self.settings.limits.job_seconds
        job = Job(client, verb, settings, source, seconds, bytes=source.stat().st_size)
        try:
            self.jobs.submit(job)
        except ValueError:
            shutil.rmtree(job.folder, ignore_errors=True)
            raise
        return job

    def close(self) -> None:
        """End what still runs, and leave nothing behind."""
        self.jobs.stop(0)
        self.place.close()
        shutil.rmtree(self.home, ignore_errors=True)


def file_name(name: str) -> str:
    """A name that every disk takes, in no other folder; what is said of a file shows it."""
    last = name.replace("\\", "/").rpartition("/")[2]
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "-_.+ ") else "_" for c in last)[-80:].strip(" .")
    return clean or "upload"
