"""What the API gives, as OpenAPI describes it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from lorgnette.web.jobs import Job, Jobs, State


class Problem(BaseModel):
    """Why something was not done."""

    detail: str = Field(description="One line: what, and what would work.")


class JobView(BaseModel):
    """A job, as it is just now."""

    id: str = Field(description="Cannot be guessed: who knows it may look at the job.")
    verb: str
    state: State
    ahead: int = Field(description="Jobs that come before it, as things are now.")
    done: int = Field(description="Pieces that are done, such as tiles.")
    total: int = Field(description="Pieces that there are; 0 while that is not known.")
    seconds_left: float | None = Field(description="Until it is done; null while nothing tells.")
    files: list[str] = Field(description="Names under /api/jobs/ID/files/.")
    said: list[str] = Field(description="What was chosen, left out or assumed, in sentences.")
    found: dict[str, Any] = Field(description="Figures of the result.")
    points: list[dict[str, Any]] = Field(description="The curve of a training so far.")
    error: str = Field(description="Why it failed; empty where it did not.")

    @classmethod
    def of(cls, job: Job, jobs: Jobs) -> JobView:
        """What a client sees of a job."""
        known = {name: getattr(job, name) for name in ("id", "verb", "state", "done", "total", "seconds_left", "error")}
        result = job.result
        parts = {"files": result.get("files", []), "said": result.get("said", []), "found": result.get("found", {})}
        return cls(**known, **parts, ahead=jobs.ahead(job), points=list(job.points))


class Health(BaseModel):
    """How the server is."""

    status: str = Field(description="'ok', or 'stopping' with status 503.")
    version: str
    waiting: int
    running: int


class OfferView(BaseModel):
    """An adapter that can be asked for."""

    name: str
    room: str
    ships: bool = Field(description="With the package, rather than in the server's folder.")
