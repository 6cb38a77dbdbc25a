"""Downloading one file over HTTP, resumed where it stopped, and only the file that is expected."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from demt.released.drive import Progress, no_room

_TIMEOUT = (30.0, 60.0)
_CHUNK = 2**20
#: Connections that break and have brought something; one that brings nothing ends it.
_RETRIES = 20


class WrongSize(OSError):
    """A file is not as large as it has to be."""


def download_url(url: str, target: Path, *, size: int | None = None, progress: Progress | None = None) -> None:
    """Download a file to `target`, which appears when it is complete; what an interruption leaves is used next time.

    A part is continued only where the server says that it is of the same file (its ETag or date of change).

    Args:
        url: http or https.
        target: In a folder that exists and that nobody else downloads to now.
        size: Bytes that the file must have.
        progress: Called with the bytes so far and the bytes in all, if known.

    Raises:
        ImportError: without requests, which comes with gdown.
        WrongSize: if the server's file has another size; nothing of it is kept.
        OSError: if the file cannot be had; what came is kept for the next time.
    """
    try:
        import requests
        import urllib3
    except ImportError as error:
        raise ImportError("Downloading needs requests: pip install 'demt[released]'") from error
    part = target.with_name(f"{target.name}.part")
    for _ in range(_RETRIES):
        before = _size(part)
        try:
            if _receive(requests, url, part, size, progress):
                break
            reason = "the connection broke"
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            reason = _reason(error)
        except OSError as error:
            if (told := no_room(error, target)) is not None:
                raise told from error
            raise
        if _size(part) <= before:
            raise OSError(
                f"The download of {url} did not complete ({reason}, {_size(part):,} bytes so far). The same "
                "command resumes where it stopped; or choose another --link, or give a file downloaded in another way "
                "with --file"
            )
    else:
        raise OSError(f"The connection to {url} broke {_RETRIES} times. The same command resumes where it stopped")
    part.replace(target)
    _source(part).unlink(missing_ok=True)


def discard_parts(target: Path) -> None:
    """Remove a download, whole or in part."""
    part = target.with_name(f"{target.name}.part")
    for path in (target, part, _source(part)):
        path.unlink(missing_ok=True)


def _receive(requests: Any, url: str, part: Path, size: int | None, progress: Progress | None) -> bool:
    """Receive into `part` as much as one connection brings; whether that is all."""
    # Encodings would change what is counted and resumed.
    headers = {"Accept-Encoding": "identity", "User-Agent": "demt"}
    known, have = _known(part, url), _size(part)
    if have and known.get("total") == have and size in (None, have):
        return True
    if have and known.get("validator"):
        headers |= {"Range": f"bytes={have}-", "If-Range": known["validator"]}
    else:
        have = 0
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == 416 and "Range" in headers:
            # The file changed and is shorter now.
            _forget(part)
            return _receive(requests, url, part, size, progress)
        if response.status_code >= 400:
            raise OSError(
                f"{url} answers {response.status_code} {response.reason}; choose another --link, or download it in a "
                "browser and give it with --file"
            )
        if "text/html" in response.headers.get("Content-Type", ""):
            raise OSError(
                f"{url} answers with a web page, not a file; download it in a browser and give it with --file"
            )
        if response.status_code != 206:
            # What is there is of another file, or cannot be continued: gone before the new one is written down.
            _forget(part)
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise OSError(f"{url} sends a different part than requested; remove what is there with --force")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        if None not in (size, total) and size != total:
            _forget(part)
            raise WrongSize(_other_size(url, total, size))
        validator = _validator(response.headers)
        _source(part).write_text(json.dumps({"url": url, "validator": validator, "total": total}), encoding="utf-8")
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                file.write(chunk)
                have += len(chunk)
                if size is not None and have > size:
                    break
                if progress is not None:
                    progress(have, total or size)
    if size is not None and have > size:
        _forget(part)
        raise WrongSize(_other_size(url, f"more than {size:,}", size))
    if size is not None and total is None and have != size:
        _forget(part)
        raise WrongSize(_other_size(url, have, size))
    return total is None or have == total


def _other_size(url: str, found: Any, size: int | None) -> str:
    words = f"{found:,}" if isinstance(found, int) else found
    return (
        f"{url} has {words} bytes, but its table says {size:,}: it is not the expected file, and nothing of it "
        "was kept; choose another --link, or give the right --size"
    )


def _validator(headers: Any) -> str | None:
    """What tells that a part is of the file that the server has now: a strong ETag, else the date of its change."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _known(part: Path, url: str) -> dict[str, Any]:
    try:
        known = json.loads(_source(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) and known.get("url") == url else {}


def _source(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _source(part).unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _reason(error: Exception) -> str:
    """What broke, without the addresses of objects that urllib3 prints."""
    if match := re.search(r"\[Errno -?\d+\] ([\w ]+)", str(error)):
        return match[1]
    return {"ConnectTimeout": "no answer", "ReadTimeout": "no answer"}.get(type(error).__name__, "the connection broke")
