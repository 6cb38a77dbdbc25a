"""Downloading one file from Google Drive, resumed where it stopped."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path

Progress = Callable[[int, "int | None"], None]
#: Seconds to connect, and between bytes.
_TIMEOUT = (30.0, 60.0)


def download(file_id: str, target: Path, progress: Progress | None = None) -> None:
    """Download a file to `target`, which appears when it is complete; what an interruption leaves is used next time.

    Args:
        file_id: The file's id on Google Drive.
        target: In a folder that exists and that nobody else downloads to now.
        progress: Called with the bytes so far and the bytes in all, if known.

    Raises:
        ImportError: without gdown.
        OSError: if the file cannot be had: says whether to wait, to retry, or to make room.
    """
    try:
        import gdown
        from gdown.exceptions import DownloadError, FileURLRetrievalError
        from requests import RequestException
    except ImportError as error:
        raise ImportError(
            "Downloading from Google Drive needs gdown: pip install 'demt[released]', or download the file in a "
            "browser and give it with --file"
        ) from error
    for attempt in ("resumed", "anew"):
        before = _received(target)
        try:
            gdown.download(
                id=file_id,
                output=str(target),
                resume=True,
                quiet=True,
                use_cookies=False,
                timeout=_TIMEOUT,
                retries=3,
                progress=progress,
            )
            return
        except FileURLRetrievalError as error:
            raise OSError(
                f"Google Drive does not hand out the file: {_reason(error)} Try again tomorrow, or download "
                f"https://drive.google.com/open?id={file_id} in a browser and give the file with --file"
            ) from error
        except (DownloadError, RequestException) as error:
            lost = isinstance(error, RequestException) or isinstance(error.__cause__, RequestException)
            if attempt == "resumed" and before and not lost and _received(target) == before:
                # Google Drive was reached and refuses to go on from here: the file changed, or was complete already.
                discard(target)
                continue
            raise OSError(
                f"The download did not complete: {_reason(error)} The same command resumes where it stopped"
            ) from error
        except OSError as error:
            if (told := no_room(error, target)) is not None:
                raise told from error
            raise


def no_room(error: OSError, target: Path) -> OSError | None:
    """What to say of an error that is about room for a download to `target`; None for another one."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    return OSError(
        f"There is no space for the download in {str(target.parent)!r} ({error.strerror}). Free some and run the same "
        "command, which resumes where it stopped; or choose another --cache-dir"
    )


def discard(target: Path) -> None:
    """Remove a download, whole or in part."""
    for path in (target, *_parts(target)):
        path.unlink(missing_ok=True)


def _parts(target: Path) -> list[Path]:
    """gdown's partial files of a target."""
    return list(target.parent.glob(f"{target.name}*.part"))


def _received(target: Path) -> int:
    return sum(part.stat().st_size for part in _parts(target))


def _reason(error: Exception) -> str:
    """What gdown says, in one line, without its advice on browsers."""
    if match := re.search(r"\[Errno -?\d+\] ([\w ]+)", str(error)):
        return f"{match[1]}."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("Failed to retrieve", "You may still", "http", "but Gdown"))]
    return " ".join(kept).rstrip(".") + "."
