"""A hub of one's own: what huggingface_hub asks of the real one for models, over HTTP, from memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Repo:
    """Commits by hash, each all of its files; branches by name."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """A commit with exactly these files, and the branch on it."""
        told = [(name, hashlib.sha1(data).hexdigest()) for name, data in sorted(files.items())]
        sha = hashlib.sha1(f"{len(self.commits)} {told}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]


class Hub:
    """Listens on the loopback interface between `start` and `stop`.

    Attributes:
        repos: by `user/name`.
        token: who has none gets nothing of private repositories, and may not write.
        short: names of files of which only the first half is sent.
        down: answers every request with status 503.
        asked: what was asked for, method and path.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.token = "hf_secret_of_the_test"
        self.short: set[str] = set()
        self.down = self.gone = False
        self.asked: list[str] = []
        self.stored: dict[str, bytes] = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def repo(self, name: str, files: dict[str, bytes] | None = None) -> Repo:
        found = self.repos.setdefault(name, Repo())
        if files is not None:
            found.commit(files)
        return found

    def stop(self) -> None:
        """From now on nothing is answered, on connections that are open neither."""
        self.gone = True
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.asked.append(f"{self.command} {path}")
        self.sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.known = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if self.hub.gone:
            self.close_connection = True
            return None
        if self.hub.down:
            return self._json({"error": "down"}, 503)
        if self.command == "POST" and path == "/api/repos/create":
            return self._create()
        if self.command == "POST" and path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/stored/(\w+)", path):
            self.hub.stored[match[1]] = self.sent
            return self._json({})
        for pattern, do in (
            (r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<rev>.+))?", self._info),
            (r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<rev>.+)", self._tree),
            (r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<rev>.+)", self._modes),
            (r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<rev>.+)", self._commit),
            (r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)", self._file),
        ):
            if match := re.fullmatch(pattern, path):
                repo = self.hub.repos.get(match["repo"])
                if repo is None or (repo.private and not self.known):
                    return self._error("RepoNotFound", 404 if self.known else 401)
                if self.command in ("POST", "PUT") and not self.known:
                    return self._json({"error": "Invalid username or password."}, 401)
                groups = match.groupdict()
                rev = groups.get("rev") or "main"
                commit = repo.branches.get(rev, rev)
                if self.command != "POST" and commit not in repo.commits:
                    return self._error("RevisionNotFound", 404)
                return do(repo, commit, groups.get("file") or parse_qs(url.query))
        return self._json({"error": f"not of this hub: {path}"}, 404)

    def _create(self) -> None:
        if not self.known:
            return self._json({"error": "Invalid username or password."}, 401)
        asked = json.loads(self.sent)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repos:
            return self._json({"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409)
        self.hub.repo(name, {".gitattributes": b""}).private = asked.get("visibility") == "private"
        return self._json({"url": f"{self.hub.url}/{name}", "name": name})

    def _info(self, repo: Repo, commit: str, _: Any) -> None:
        files = repo.commits[commit]
        siblings = [{"rfilename": name, "size": len(data), "blobId": _blob(data)} for name, data in files.items()]
        self._json({"id": "x/y", "sha": commit, "private": repo.private, "tags": [], "siblings": siblings})

    def _tree(self, repo: Repo, commit: str, _: Any) -> None:
        files = repo.commits[commit]
        self._json([{"type": "file", "path": n, "size": len(d), "oid": _blob(d)} for n, d in files.items()])

    def _modes(self, repo: Repo, commit: str, _: Any) -> None:
        def mode(name: str) -> str:
            return "lfs" if name.endswith(".safetensors") else "regular"

        names = [file["path"] for file in json.loads(self.sent)["files"]]
        self._json({"files": [{"path": n, "uploadMode": mode(n), "shouldIgnore": False, "oid": None} for n in names]})

    def _batch(self, repo: Repo, commit: str, _: Any) -> None:
        objects = json.loads(self.sent)["objects"]
        for one in objects:
            one["actions"] = {"upload": {"href": f"{self.hub.url}/stored/{one['oid']}"}}
        self._json({"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")

    def _commit(self, repo: Repo, commit: str, _: Any) -> None:
        files = dict(repo.files())
        for line in map(json.loads, self.sent.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = repo.commit(files)
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/x/y/commit/{sha}"})

    def _file(self, repo: Repo, commit: str, name: str) -> None:
        data = repo.commits[commit].get(name)
        if data is None:
            return self._error("EntryNotFound", 404)
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")) else 0
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{_blob(data)}"')
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            short = name in self.hub.short
            self.wfile.write(data[start : len(data) // 2] if short else data[start:])
            self.close_connection = short
        return None

    def _error(self, code: str, status: int) -> None:
        self._json({"error": code}, status, {"X-Error-Code": code, "X-Error-Message": code})

    def _json(
        self, value: Any, status: int = 200, headers: dict[str, str] | None = None, kind: str = "application/json"
    ) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        for key, told in {"Content-Type": kind, "Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(key, told)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)


def _blob(data: bytes) -> str:
    """Git's hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
