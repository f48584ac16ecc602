"""The HTTP API: a file is the body of a request, settings are in its address, and the answer is a job or the result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route

from lorgnette.version import __version__
from lorgnette.web.asked import (
    Adapting,
    Asked,
    Classifying,
    Enhancing,
    Meshing,
    adapting,
    classifying,
    enhancing,
    meshing,
)
from lorgnette.web.downloads import sent, zipped
from lorgnette.web.jobs import Full, Job, State, Stopping
from lorgnette.web.schemas import Health, JobView, OfferView, Problem
from lorgnette.web.server import Server
from lorgnette.web.uploads import received

LOOK_SECONDS = 0.25
"""How often it is looked whether a client that waits is still there."""
BODY = {
    "requestBody": {
        "required": True,
        "description": "The file itself.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
FILE = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The token is missing or wrong."},
    403: {"model": Problem, "description": "The request comes from a page of another server."},
}
STARTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "With `wait`: the result itself, or the job where its result is no file.",
        "content": FILE["content"] | {"application/json": {"schema": {"$ref": "#/components/schemas/JobView"}}},
    },
    202: {"model": JobView, "description": "The job waits for its turn."},
    400: {"model": Problem, "description": "The file or a setting does not work."},
    408: {"model": Problem, "description": "The upload stood still."},
    413: {"model": Problem, "description": "The upload is too large."},
    503: {"model": Problem, "description": "No room for another job: try again later."},
    **PROBLEMS,
}
KNOWN: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "No such job."}, **PROBLEMS}

JobId = Annotated[str, Path(description="Of a job.", pattern="^[A-Za-z0-9_-]{1,64}$")]
Client = Annotated[
    str | None,
    Header(alias="X-Client", description="A name: clients take turns. Unset: the address.", pattern="^[ -~]{1,100}$"),
]


def make_app(server: Server) -> FastAPI:
    """The API around a server, which is closed when the application ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.close)

    about = "Adapted vision models at work: one job at a time for each device, clients in turn."
    app = FastAPI(
        title="Lorgnette",
        version=__version__,
        description=about,
        openapi_url="/api/openapi.json",
        docs_url=None,  # these two would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )

    @app.exception_handler(Full)
    async def full(request: Request, error: Full) -> Response:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "5"})

    @app.exception_handler(Stopping)
    async def stopping(request: Request, error: Stopping) -> Response:
        return JSONResponse({"detail": str(error)}, 503)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody reads it

    @app.exception_handler(405)
    async def other_method(request: Request, error: Exception) -> Response:
        """Starlette names the methods of the first route of an address; an address may have several."""
        here = [one for one in app.routes if isinstance(one, Route) and one.matches(request.scope)[0] != Match.NONE]
        allowed = ", ".join(sorted({method for one in here for method in one.methods or ()}))
        return JSONResponse({"detail": f"{request.method} is not done here; {allowed} is"}, 405, {"Allow": allowed})

    def known(id: str) -> Job:
        job = server.jobs.get(id)
        if job is None:
            raise HTTPException(404, f"there is no job {id}: it never was, or its result was not kept so long")
        return job

    def checked(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return make()
        except ValueError as error:
            raise HTTPException(400, str(error)) from None

    async def start(
        request: Request, client: str | None, verb: str, asked: Asked, settings: dict[str, Any], seconds: float = 0
    ) -> Response:
        owner = client or (request.client.host if request.client else "")
        server.jobs.check_room(owner)  # before the upload
        source = await received(request, server, asked.name)
        job = server.submit(owner, verb, settings, source, seconds)
        where = f"/api/jobs/{job.id}"
        if not asked.wait:
            view = JobView.of(job, server.jobs)
            return JSONResponse(view.model_dump(mode="json"), 202, {"Location": where})
        job.held += 1
        if not await _over(job, request):
            job.held -= 1
            await asyncio.to_thread(server.jobs.forget, job)
            raise ClientDisconnect
        if job.state is not State.DONE:
            job.held -= 1
            status, reason = (400, job.error) if job.state is State.FAILED else (503, "the job was cancelled")
            raise HTTPException(status, reason)
        if not job.result["files"]:
            job.held -= 1
            return JSONResponse(JobView.of(job, server.jobs).model_dump(mode="json"))
        return sent(job, job.result["files"][0], server.jobs.forget)

    @app.get("/health", responses={503: {"model": Health, "description": "The server stops."}, 403: PROBLEMS[403]})
    async def health(response: Response) -> Health:
        """Whether jobs are taken; needs no token."""
        counts, is_open = server.jobs.counts(), server.jobs.is_open
        response.status_code = 200 if is_open else 503
        return Health(
            status="ok" if is_open else "stopping",
            version=__version__,
            waiting=counts["waiting"],
            running=counts["running"],
        )

    @app.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}, **PROBLEMS})
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(server.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/api/adapters", responses=PROBLEMS)
    async def adapters() -> list[OfferView]:
        """The adapters that can be asked for; `auto` and `none` work beside them."""
        return [OfferView(name=one.name, room=one.room, ships=one.folder is None) for one in server.offers()]

    @app.post("/api/enhance", response_class=Response, status_code=202, responses=STARTS, openapi_extra=BODY)
    async def enhance(request: Request, asked: Annotated[Enhancing, Query()], client: Client = None) -> Response:
        """Enlarge or restore a picture, as `lorgnette enhance` does: the file is the same, byte for byte."""
        return await start(request, client, "enhance", asked, checked(lambda: enhancing(asked, server.offers())))

    @app.post("/api/mesh", response_class=Response, status_code=202, responses=STARTS, openapi_extra=BODY)
    async def mesh(request: Request, asked: Annotated[Meshing, Query()], client: Client = None) -> Response:
        """Turn the organs of a mask into surfaces in millimetres, as `lorgnette mesh` does."""
        return await start(request, client, "mesh", asked, checked(lambda: meshing(asked)))

    @app.post("/api/classify", response_class=Response, status_code=202, responses=STARTS, openapi_extra=BODY)
    async def classify(request: Request, asked: Annotated[Classifying, Query()], client: Client = None) -> Response:
        """Say what is on a picture, as `lorgnette classify` does: `labels` among what the job found."""
        return await start(request, client, "classify", asked, checked(lambda: classifying(asked, server.offers())))

    @app.post("/api/adapt", response_class=Response, status_code=202, responses=STARTS, openapi_extra=BODY)
    async def adapt(request: Request, asked: Annotated[Adapting, Query()], client: Client = None) -> Response:
        """Train an adapter on the photographs in a zip file; it is offered until the server ends, and is the result."""
        settings = checked(lambda: adapting(asked, server.settings.limits.minutes))
        return await start(request, client, "adapt", asked, settings, 60 * asked.minutes)

    @app.post("/api/jobs/{id}/enough", status_code=202, responses=KNOWN)
    async def enough(id: JobId) -> JobView:
        """Tell a training that it has learnt enough: it keeps what it has."""
        server.place.enough(known(id))
        return JobView.of(known(id), server.jobs)

    @app.get("/api/jobs/{id}", responses=KNOWN)
    async def job(id: JobId) -> JobView:
        """What has become of a job."""
        return JobView.of(known(id), server.jobs)

    seen: dict[str, Any] = {"content": {**FILE["content"], "image/jpeg": {}, "text/html": {}}}

    @app.get("/api/jobs/{id}/files/{file}", response_class=FileResponse, responses={200: seen, **KNOWN})
    async def file(id: JobId, file: Annotated[str, Path(description="One of the job's `files`.")]) -> Response:
        """A file of the result."""
        job = known(id)
        if file not in (*job.result.get("files", []), *job.result.get("preview", [])):
            there = ", ".join(job.result.get("files", [])) or "none"
            raise HTTPException(404, f"the job is {job.state} and has no such file; there is {there}")
        job.held += 1
        return sent(job, file)

    @app.get("/api/zip", response_class=FileResponse, responses={200: FILE, **KNOWN})
    async def archive(
        job: Annotated[list[JobId], Query(description="That are done.", max_length=500)],
    ) -> Response:
        """The results of several jobs in one zip file."""
        jobs = [known(id) for id in job]
        if waiting := [one.id for one in jobs if one.state is not State.DONE]:
            raise HTTPException(404, f"job {waiting[0]} has no result")
        return await zipped(jobs, server)

    @app.delete("/api/jobs/{id}", status_code=204, responses=KNOWN)
    async def cancel(id: JobId) -> None:
        """Cancel a job, whatever it is at, and remove its files."""
        await asyncio.to_thread(server.jobs.forget, known(id))

    return app


async def _over(job: Job, request: Request) -> bool:
    """Wait until a job is over; False where the client was gone before."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    job.when_over(lambda: loop.call_soon_threadsafe(over.set))
    while True:
        try:
            await asyncio.wait_for(over.wait(), LOOK_SECONDS)
            return True
        except TimeoutError:
            if await request.is_disconnected():
                return False
