"""A stand-in for Google Drive on 127.0.0.1, and requests sent to it in place of Google's hosts."""

from __future__ import annotations

import dataclasses
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests

HOSTS = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")
# gdown reads the page line by line and wants the form on one line, as Google writes it.
_FIELDS = {"id": "{id}", "export": "download", "confirm": "t", "uuid": "1-2-3"}
CONFIRM = (
    "<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>"
    '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
    + "".join(f'<input type="hidden" name="{name}" value="{value}">' for name, value in _FIELDS.items())
    + "</form></body></html>"
)
QUOTA = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-caption">Sorry, you can't view or download this file at this time.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>"""


@dataclasses.dataclass
class Shared:
    """A file as the stand-in hands it out.

    Args:
        content: Its bytes.
        page: A page in its place.
        status: HTTP status of that page.
        asks: Whether to ask for confirmation first, as for files too large to be scanned for viruses.
        cut: Close the connection after so many bytes of a response, once per entry.
        ranges: Whether parts can be asked for.
    """

    content: bytes = b""
    page: str | None = None
    status: int = 200
    asks: bool = True
    cut: list[int] = dataclasses.field(default_factory=list)
    ranges: bool = True


class StandIn:
    """The server: `files` by id, and the requests that came."""

    def __init__(self) -> None:
        self.files: dict[str, Shared] = {}
        self.sent: list[tuple[str, str | None]] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in.answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def redirect(self, monkeypatch: Any) -> None:
        """Send what is meant for Google's hosts here, and nothing anywhere else."""
        send = requests.adapters.HTTPAdapter.send
        here = f"http://127.0.0.1:{self.server.server_port}"

        def send_here(adapter: Any, request: Any, **options: Any) -> Any:
            url = urlsplit(request.url)
            assert url.hostname in HOSTS, request.url
            request.url = f"{here}{url.path}?{url.query}"
            return send(adapter, request, **{**options, "proxies": {}})

        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send_here)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        query = parse_qs(url.query)
        name, wanted = query["id"][0], request.headers.get("Range")
        self.sent.append((request.path, wanted))
        file = self.files[name]
        if url.path == "/uc":
            request.send_response(303)
            request.send_header("Location", f"https://drive.usercontent.google.com/download?id={name}&export=download")
            request.send_header("Content-Length", "0")
            request.send_header("Content-Type", "application/binary")
            request.end_headers()
        elif file.page is not None:
            self._page(request, file.page, file.status)
        elif file.asks and "confirm" not in query:
            self._page(request, CONFIRM.format(id=name), 200)
        else:
            self._file(request, file, wanted)

    def _page(self, request: BaseHTTPRequestHandler, page: str, status: int) -> None:
        request.send_response(status)
        request.send_header("Content-Type", "text/html; charset=utf-8")
        request.send_header("Content-Length", str(len(page.encode())))
        request.end_headers()
        request.wfile.write(page.encode())

    def _file(self, request: BaseHTTPRequestHandler, file: Shared, wanted: str | None) -> None:
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and file.ranges else 0
        body = file.content[start:]
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(file.content) - 1}/{len(file.content)}")
        request.send_header("Content-Type", "application/octet-stream")
        request.send_header("Content-Disposition", 'attachment; filename="epoch=99.ckpt"')
        request.send_header("Last-Modified", "Sat, 16 Dec 2023 10:00:00 GMT")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if file.cut:
            body = body[: file.cut.pop(0)]
            request.close_connection = True
        request.wfile.write(body)
