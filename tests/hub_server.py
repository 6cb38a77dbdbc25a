"""A Hugging Face Hub on loopback: as much of its HTTP interface as models and data sets need, with faults on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

#: May do all; may see private repositories and write nothing. All others are nobody's.
TOKEN, READER = "hf_all", "hf_read"


def lfs(path: str) -> bool:
    """Whether the Hub keeps a file as a large one."""
    return path.endswith((".safetensors", ".bin", ".png", ".parquet"))


@dataclass
class Repo:
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """A commit of all files of the repository; returns its hash."""
        digest = hashlib.sha1(str(len(self.commits)).encode())
        for name in sorted(files):
            digest.update(name.encode() + files[name])
        sha = digest.hexdigest()
        self.commits[sha], self.branches[branch] = dict(files), sha
        return sha


class HubServer(ThreadingHTTPServer):
    """Use as a context manager.

    Attributes:
        repos: By id. Private ones need a token.
        requests: Method and path of every request so far.
        ranges: The Range header of every download so far.
        cuts: Sizes in bytes after which the next downloads of large files break off.
        status: Answer every request with this status, if set.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.ranges: list[str | None] = []
        self.cuts: list[int] = []
        self.status: int | None = None
        self.url = f"http://127.0.0.1:{self.server_port}"
        # Large files come from another host, which must not be shown tokens.
        self.cdn = f"http://localhost:{self.server_port}/cdn"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()

    def add(self, repo_id: str, files: Mapping[str, bytes], *, private: bool = False) -> str:
        """A repository with one commit; returns the commit's hash."""
        self.repos[repo_id] = Repo(private)
        return self.repos[repo_id].commit(files)


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message or code}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        try:
            if self.server.status is not None:
                raise _Refused(self.server.status, "ServerError")
            for pattern, name in _ROUTES:
                if match := re.fullmatch(pattern, f"{self.command} {path}"):
                    return getattr(self, name)(body, **match.groupdict())
            raise _Refused(404, "NoRoute", f"{self.command} {path}")
        except _Refused as refused:
            self._answer(b"{}", refused.status, refused.headers)

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, values: object, status: int = 200) -> None:
        self._answer(json.dumps(values).encode(), status)

    def _token(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return token if token in (TOKEN, READER) else None

    def _repo(self, repo: str, *, write: bool = False) -> Repo:
        found = self.server.repos.get(repo)
        if found is None or (found.private and not self._token()):
            raise _Refused(404 if self._token() else 401, "RepoNotFound", "Repository not found")
        if write and self._token() != TOKEN:
            raise _Refused(403, "Forbidden", "No right to write")
        return found

    def _commit(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        found = self._repo(repo)
        sha = found.branches.get(revision, revision)
        if sha not in found.commits:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, found.commits[sha]

    def info(self, body: bytes, repo: str, revision: str | None = None) -> None:
        sha, files = self._commit(repo, revision or "main")
        siblings = [{"rfilename": name} for name in files]
        self._json({"id": repo, "modelId": repo, "sha": sha, "siblings": siblings, "tags": []})

    def tree(self, body: bytes, repo: str, revision: str, folder: str = "") -> None:
        """Files and folders in a folder, or all files below it."""
        _, files = self._commit(repo, revision)
        start = f"{folder}/" if folder else ""
        below = {name: name[len(start) :] for name in files if name.startswith(start)}
        if folder and not below:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        deep = "recursive=true" in urlsplit(self.path).query.lower()
        entries = [_entry(name, files[name]) for name, rest in below.items() if deep or "/" not in rest]
        folders = {start + rest.partition("/")[0] for rest in below.values() if "/" in rest}
        self._json([*({"type": "directory", "path": name, "oid": "0" * 40} for name in sorted(folders)), *entries])

    def paths_info(self, body: bytes, repo: str, revision: str) -> None:
        _, files = self._commit(repo, revision)
        asked = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
        self._json([_entry(name, files[name]) for name in asked if name in files])

    def resolve(self, body: bytes, repo: str, revision: str, path: str) -> None:
        sha, files = self._commit(repo, revision)
        headers = {"X-Repo-Commit": sha}
        if path not in files:
            error = _Refused(404, "EntryNotFound", "Entry not found")
            error.headers |= headers
            raise error
        content = files[path]
        if lfs(path):
            oid = hashlib.sha256(content).hexdigest()
            self.server.blobs[oid] = content
            headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
            return self._answer(b"", 302, {**headers, "Location": f"{self.server.cdn}/{oid}"})
        etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        self._answer(content, headers={**headers, "ETag": f'"{etag}"'})

    def cdn(self, body: bytes, oid: str) -> None:
        if "Authorization" in self.headers:
            raise _Refused(400, "TokenLeaked")
        content, asked = self.server.blobs[oid], self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if asked else {}
        if not self.server.cuts:
            return self._answer(content[start:], 206 if asked else 200, headers)
        # The length is announced in full and the connection closed before that.
        headers["Content-Length"] = str(len(content) - start)
        self._answer(content[start : start + self.server.cuts.pop(0)], 206 if asked else 200, headers)
        self.close_connection = True

    def create(self, body: bytes) -> None:
        if self._token() is None:
            raise _Refused(401, "Unauthorized", "Invalid username or password.")
        if self._token() != TOKEN:
            raise _Refused(403, "Forbidden", "No right to write")
        values = json.loads(body)
        repo = f"{values['organization']}/{values['name']}"
        new = repo not in self.server.repos
        if new:
            self.server.repos[repo] = Repo(values.get("visibility") == "private" or values.get("private") is True)
            self.server.repos[repo].commit({".gitattributes": b""})
        self._json({"url": f"{self.server.url}/{repo}"}, 200 if new else 409)

    def branch(self, body: bytes, repo: str, branch: str) -> None:
        found = self._repo(repo, write=True)
        if branch in found.branches:
            raise _Refused(409, "Conflict", "Reference already exists")
        found.branches[branch] = found.branches["main"]
        self._json({})

    def validate(self, body: bytes) -> None:
        wrong = not json.loads(body)["content"].startswith("---\n")
        self._json({"errors": [], "warnings": [{"message": "empty metadata"}] if wrong else []})

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        self._repo(repo, write=True)
        names = [file["path"] for file in json.loads(body)["files"]]
        modes = [{"path": n, "uploadMode": "lfs" if lfs(n) else "regular", "shouldIgnore": False} for n in names]
        self._json({"files": modes})

    def batch(self, body: bytes, repo: str) -> None:
        self._repo(repo, write=True)
        objects = json.loads(body)["objects"]
        for each in objects:
            each["actions"] = {"upload": {"href": f"{self.server.url}/upload/{each['oid']}", "header": {}}}
        self._json({"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, "WrongContent")
        self.server.blobs[oid] = body
        self._answer(b"")

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        found = self._repo(repo, write=True)
        files = dict(self._commit(repo, revision)[1])
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        sha = found.commit(files, revision)
        self._json({"commitUrl": f"{self.server.url}/{repo}/commit/{sha}", "commitOid": sha})


def _entry(name: str, content: bytes) -> dict[str, object]:
    oid = hashlib.sha256(content).hexdigest()
    large = {"lfs": {"oid": oid, "size": len(content), "pointerSize": 134}} if lfs(name) else {}
    return {"type": "file", "path": name, "size": len(content), "oid": oid[:40], **large}


_ID = r"(?P<repo>[\w.-]+/[\w.-]+)"
_ROUTES = [
    (rf"GET /api/models/{_ID}", "info"),
    (rf"GET /api/models/{_ID}/revision/(?P<revision>.+)", "info"),
    (rf"GET /api/datasets/{_ID}", "info"),
    (rf"GET /api/datasets/{_ID}/revision/(?P<revision>.+)", "info"),
    (rf"GET /api/datasets/{_ID}/tree/(?P<revision>[^/]+)/?(?P<folder>.*)", "tree"),
    (rf"POST /api/datasets/{_ID}/paths-info/(?P<revision>.+)", "paths_info"),
    (rf"(GET|HEAD) /datasets/{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    (rf"(GET|HEAD) /{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    (r"(GET|HEAD) /cdn/(?P<oid>\w+)", "cdn"),
    (r"POST /api/repos/create", "create"),
    (rf"POST /api/models/{_ID}/branch/(?P<branch>.+)", "branch"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"POST /api/models/{_ID}/preupload/(?P<revision>.+)", "preupload"),
    (rf"POST /{_ID}\.git/info/lfs/objects/batch", "batch"),
    (r"PUT /upload/(?P<oid>\w+)", "upload"),
    (rf"POST /api/models/{_ID}/commit/(?P<revision>.+)", "commit"),
]
