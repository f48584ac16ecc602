"""`lorgnette serve`: a page and an HTTP API on this machine."""

from __future__ import annotations

import argparse
import os
import secrets
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from lorgnette.cli.arguments import Arguments, add_device
from lorgnette.common.values import factor, whole
from lorgnette.web.settings import Limits, Settings, is_loopback

TOKEN = "LORGNETTE_TOKEN"


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _arguments().read(words)
    settings = _settings(options)
    for package in ("fastapi", "uvicorn", "prometheus_client", *(["gradio"] if settings.page else [])):
        if find_spec(package) is None:
            alone = "; --no-page serves the API without it" if package == "gradio" else ""
            raise ValueError(f"lorgnette serve needs the package {package}: pip install 'lorgnette[web]'{alone}")
    from lorgnette.web.run import serve

    def ready(address: str) -> None:
        print(f"Lorgnette answers at {address}, until Ctrl-C", flush=True)
        if settings.token is not None:
            print(f"in a browser once: {address}/?token={settings.token}", flush=True)

    serve(settings, ready)
    print("stopped; nothing is left behind")
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    limits = Limits()
    limits = replace(
        limits,
        upload_bytes=round(options.upload_mb * 1e6) if options.upload_mb else limits.upload_bytes,
        pixels=round(options.megapixels * 1e6) if options.megapixels else limits.pixels,
        result_pixels=round(options.result_megapixels * 1e6) if options.result_megapixels else limits.result_pixels,
        waiting=options.waiting or limits.waiting,
    )
    return Settings(
        host=options.host,
        port=options.port,
        token=_token(options),
        device=options.device,
        adapters=Path(options.adapters) if options.adapters else None,
        page=not options.no_page,
        limits=limits,
    )


def _token(options: argparse.Namespace) -> str | None:
    """From a file or the environment, so that it stands in no list of processes; or a new one where one is needed."""
    if options.token_file:
        return Path(options.token_file).read_text(encoding="utf-8").strip()
    if os.environ.get(TOKEN):
        return os.environ[TOKEN]
    return None if is_loopback(options.host) else secrets.token_urlsafe(24)


def _arguments() -> Arguments:
    parser = Arguments(
        "serve",
        "lorgnette serve --adapters runs",
        "Serves a page and an HTTP API to this machine: enhance pictures, with any adapter. One job at a time, clients "
        "in turn. Nothing is loaded from elsewhere or sent there; uploads lie in a temporary folder, which is removed "
        "at the end.",
    )
    parser.add_argument("--adapters", metavar="FOLDER", help="offer the adapters, models and runs in this folder too")
    parser.add_argument("--port", type=whole(0, 65535), default=7860, metavar="N", help="0: a free one; unset: 7860")
    host = "address to listen at; another than 127.0.0.1 needs a token, which is made and shown where none is given"
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=host)
    parser.add_argument("--token-file", metavar="FILE", help=f"what clients have to know; or the variable {TOKEN}")
    parser.add_argument("--no-page", action="store_true", help="the API alone")
    number = partial(factor, least=0.001, most=1e6)
    parser.add_argument("--upload-mb", type=number, metavar="N", help="most megabytes of an upload; unset: 100")
    parser.add_argument("--megapixels", type=number, metavar="N", help="most of a picture as given; unset: 25")
    parser.add_argument("--result-megapixels", type=number, metavar="N", help="most of a result; unset: 100")
    parser.add_argument("--waiting", type=whole(), metavar="N", help="most jobs that wait; unset: 200")
    add_device(parser)
    return parser
