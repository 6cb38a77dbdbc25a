"""Fetching the archives of data sets from where their authors put them: download, check, unpack."""

from __future__ import annotations

import hashlib
from os import PathLike
from pathlib import Path

from filelock import FileLock
from huggingface_hub import constants

from demt.data.doctor.archive import ArchiveError, unpack
from demt.files import check_new, file_sha256
from demt.released import drive
from demt.released.archives import Archive
from demt.released.download import WrongSize, discard_parts, download_url
from demt.released.drive import Progress


def fetch_data(
    archive: Archive,
    target: Path,
    *,
    file: Path | None = None,
    cache_dir: str | PathLike[str] | None = None,
    keep: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Download an archive, check it, and unpack it into a new folder, which appears when it is complete.

    Args:
        archive: See `demt.released.archives.find_archive`.
        target: A folder that does not exist yet, or is empty.
        file: The archive, if it was downloaded by other means; it is checked, unpacked and left where it is.
        cache_dir: Where it is downloaded to; by default ``demt/archives`` beside the Hugging Face caches.
        keep: Leave the downloaded archive there; by default it is removed when it is unpacked.
        force: Download it again although it is there, whole or in part.
        progress: Called with the bytes so far and the bytes in all, if known.

    Returns:
        The data set's folder: the target, or the one folder in it.

    Raises:
        FileExistsError: if the target exists and is not empty; nothing is downloaded then.
        ArchiveError: if the archive is damaged, is another file than expected, or holds what could do harm.
        ImportError: if gdown is not installed, with which requests comes.
        OSError: if it cannot be downloaded, or there is no room.
    """
    check_new(target)
    if file is not None:
        _check(archive, file)
        unpack(file, target)
        return _folder_in(target)
    root = archive_cache(cache_dir)
    root.mkdir(parents=True, exist_ok=True)
    # Links name different files alike.
    kept = root / f"{hashlib.sha256(archive.url.encode()).hexdigest()[:8]}-{archive.file}"
    with FileLock(f"{kept}.lock"):
        if force:
            _discard(kept)
        if not kept.is_file():
            _download(archive, kept, progress)
        try:
            _check(archive, kept)
        except ArchiveError:
            # Nothing to resume: the next try starts from scratch.
            _discard(kept)
            raise
        try:
            unpack(kept, target)
        except ArchiveError as error:
            raise ArchiveError(f"{error} (--force downloads it anew; demt data unpack has other limits)") from error
        if not keep:
            _discard(kept)
    return _folder_in(target)


def archive_cache(cache_dir: str | PathLike[str] | None = None) -> Path:
    """Where archives are downloaded to: `cache_dir`, or ``demt/archives`` beside the Hugging Face caches."""
    return Path(cache_dir).expanduser() if cache_dir is not None else Path(constants.HF_HOME) / "demt" / "archives"


def _download(archive: Archive, kept: Path, progress: Progress | None) -> None:
    if archive.drive_id is None:
        try:
            download_url(archive.url, kept, size=archive.size, progress=progress)
        except WrongSize as error:
            raise ArchiveError(str(error)) from error
    else:
        drive.download(archive.drive_id, kept, progress)


def _check(archive: Archive, file: Path) -> None:
    """Raise `ArchiveError` for another file than the table speaks of."""
    if not file.is_file():
        raise FileNotFoundError(f"No file {str(file)!r}")
    size = file.stat().st_size
    if archive.size not in (None, size):
        raise ArchiveError(
            f"{str(file)!r} has {size:,} bytes, but its table says {archive.size:,}: it is not the expected file; "
            "choose another --link, or give the right --size"
        )
    if archive.sha256 is not None and (found := file_sha256(file)) != archive.sha256:
        raise ArchiveError(
            f"{str(file)!r} has the SHA-256 {found}, but its table says {archive.sha256}: it is damaged or another "
            "file; fetch it again, or give the right --sha256"
        )


def _discard(kept: Path) -> None:
    discard_parts(kept)
    drive.discard(kept)


def _folder_in(target: Path) -> Path:
    inside = [path for path in target.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else target
