"""Files over HTTP on 127.0.0.1, with ranges, and with connections that break when they are told to."""

from __future__ import annotations

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer(ThreadingHTTPServer):
    """Use as a context manager.

    Attributes:
        files: Contents by path.
        ranges: The Range header of each request so far.
        cuts: Bytes after which the next responses break off.
        status: Answer everything with this, if set.
        lengths: Whether responses say how long they are.
        headers: Headers of every response beside those of files.
        tags: Whether files have an ETag.
        stalled: If set, a response that breaks off does so by sending nothing more until this event.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.ranges, self.cuts = files, [], []
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.tags = self.lengths = True
        self.stalled: threading.Event | None = None

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def __enter__(self) -> FileServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        content, asked = self.server.files.get(self.path, b""), self.headers.get("Range")
        self.server.ranges.append(asked)
        status = self.server.status or (200 if self.path in self.server.files else 404)
        tag = f'"{hashlib.sha1(content).hexdigest()}"'
        start = 0
        if status == 200 and asked and self.headers.get("If-Range") == tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            status = 206 if start < len(content) else 416
        body = content[start:] if status < 400 else b""
        self.send_response(status)
        headers = {"Content-Length": str(len(body))} if self.server.lengths else {}
        headers |= {"ETag": tag} if self.server.tags else {}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        for name, value in {**headers, **self.server.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.server.cuts:
            body = body[: self.server.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(body)
        if self.close_connection and self.server.stalled is not None:
            self.server.stalled.wait(60)
