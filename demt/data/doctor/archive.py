"""Unpacking of untrusted archives, .zip, .tar and .tar.gz, into a folder and nowhere else."""

from __future__ import annotations

import errno
import gzip
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO, Any

from demt.files import new_folder

_CHUNK = 2**20
#: Archives that unpack to less than this are no bombs, however well they are packed.
_HARMLESS = 2**26

#: What the libraries raise for archives that are not whole.
_DAMAGE = (
    EOFError,
    NotImplementedError,
    UnicodeError,
    zlib.error,
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
)


class ArchiveError(ValueError):
    """An archive is damaged, too large, or holds what no data set needs and what could do harm."""


@dataclass(frozen=True)
class Member:
    """A file or folder of an archive; `size` is what the archive says."""

    name: str
    size: int
    is_folder: bool
    open: Callable[[], IO[bytes]]


@dataclass
class Limits:
    """What an archive may unpack to.

    Args:
        files: Number of files and folders.
        size: Bytes of all files.
        ratio: Times the archive's own size, above 64 MiB.
    """

    files: int = 1_000_000
    size: int = 500 * 2**30
    ratio: float = 200.0

    def check(self, count: int, size: int, packed: int) -> None:
        """Raises `ArchiveError` for `count` files of `size` bytes from `packed` bytes."""
        if count > self.files:
            raise ArchiveError(f"holds more than {self.files:,} files; raise the limit if that is right")
        if size > self.size:
            raise ArchiveError(f"unpacks to more than {self.size / 2**30:.3g} GiB; raise the limit if that is right")
        if size > max(_HARMLESS, self.ratio * packed):
            raise ArchiveError(
                f"unpacks to more than {self.ratio:g} times its {packed:,} bytes, as bombs do; raise the limit if that "
                "is right"
            )


def unpack(archive: Path, target: Path, *, limits: Limits | None = None) -> int:
    """Unpack an archive into a new folder, which appears when all of it is written.

    Only files and folders are written, with the permissions of new files. All names are looked at before what they
    name: an absolute path, a drive, ``..``, a backslash, a name that stands for two files (also where capitals do not
    count), a link, a device, or an encrypted file refuses the archive as a whole.

    Args:
        archive: A .zip, .tar or .tar.gz file; its contents tell which, not its name.
        target: A folder that does not exist yet, or is empty.
        limits: What it may unpack to; sizes are counted as they are written, whatever the archive says they are.

    Returns:
        Number of files.

    Raises:
        ArchiveError: naming the archive; nothing is written then.
        FileExistsError: if the target exists and is not empty.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"No file {str(archive)!r}")
    limits = limits or Limits()
    try:
        with new_folder(target) as folder, closing(_members(archive, limits)) as members:
            return _Unpacking(folder, limits, archive.stat().st_size).run(members)
    except ArchiveError as error:
        raise ArchiveError(f"{str(archive)!r} {error}") from error
    except _DAMAGE as error:
        raise ArchiveError(f"{str(archive)!r} is damaged or cut off ({error}); fetch it again") from error
    except OSError as error:
        # Seeking to where a damaged header points.
        if error.errno != errno.EINVAL:
            raise
        raise ArchiveError(f"{str(archive)!r} is damaged; fetch it again") from error
    except RecursionError as error:
        raise ArchiveError(f"{str(archive)!r} holds endlessly nested headers; refused") from error


@dataclass
class _Unpacking:
    folder: Path
    limits: Limits
    packed: int
    seen: dict[tuple[str, ...], bool] = field(default_factory=dict)
    written: int = 0

    def run(self, members: Iterator[Member]) -> int:
        files = 0
        for count, member in enumerate(members, 1):
            self.limits.check(count, self.written + member.size, self.packed)
            path = self._path(member)
            if member.is_folder:
                path.mkdir(parents=True, exist_ok=True)
                continue
            files += 1
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(member.open()) as source, path.open("xb") as file:
                self._copy(member, source, file, count)
        if not files:
            raise ArchiveError("holds no files")
        return files

    def _copy(self, member: Member, source: IO[bytes], file: IO[bytes], count: int) -> None:
        size = 0
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            self.written += len(chunk)
            self.limits.check(count, self.written, self.packed)
            file.write(chunk)
        if size != member.size:
            raise ArchiveError(f"is damaged: {member.name!r} has {size:,} bytes instead of {member.size:,}")

    def _path(self, member: Member) -> Path:
        """Where a member goes; every name is used once, and no file is a folder as well."""
        parts = safe_parts(member.name)
        if not parts and not member.is_folder:
            raise ArchiveError("holds a file without a name; refused")
        # Where capitals or ways to write an accent do not count, two names would be one file.
        keys = [unicodedata.normalize("NFC", part).casefold() for part in parts]
        for end in range(1, len(keys) + 1):
            key, is_folder = tuple(keys[:end]), end < len(keys) or member.is_folder
            if key in self.seen and not (is_folder and self.seen[key]):
                raise ArchiveError(f"holds two files {member.name!r}; refused")
            self.seen[key] = is_folder
        return self.folder.joinpath(*parts)


def safe_parts(name: str) -> list[str]:
    """Parts of a member's path below the target.

    Raises:
        ArchiveError: if it could lead elsewhere on any system.
    """
    windows = PureWindowsPath(name)
    if name.startswith("/") or windows.drive or windows.root:
        raise ArchiveError(f"holds an absolute path, {name!r}; refused")
    if ".." in windows.parts:
        raise ArchiveError(f"holds a path that leads out of the folder, {name!r}; refused")
    if "\\" in name or "\0" in name:
        raise ArchiveError(f"holds a name with a backslash or NUL, {name!r}; refused")
    return [part for part in name.split("/") if part not in ("", ".")]


def _members(archive: Path, limits: Limits) -> Generator[Member, None, None]:
    with archive.open("rb") as file:
        start = file.read(512)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _members_of_zip(archive, limits)
    if start[:2] == b"\x1f\x8b" or start[257:262] == b"ustar":
        return _members_of_tar(archive, start[:2] == b"\x1f\x8b")
    raise ArchiveError("is not a .zip, .tar or .tar.gz file; unpack it with its own tool")


def _members_of_zip(archive: Path, limits: Limits) -> Generator[Member, None, None]:
    with zipfile.ZipFile(archive) as file:
        infos = file.infolist()
        limits.check(len(infos), sum(info.file_size for info in infos), archive.stat().st_size)
        for info in infos:
            # zipfile cuts names at NUL; the raw name tells.
            safe_parts(info.orig_filename)
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(f"holds a link or special file, {info.filename!r}; refused")
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ArchiveError("is encrypted or packed in an unusual way; unpack it with its own tool")
        for info in infos:
            yield Member(info.filename, info.file_size, info.is_dir(), partial(file.open, info))


def _members_of_tar(archive: Path, compressed: bool) -> Generator[Member, None, None]:
    with gzip.open(archive) if compressed else archive.open("rb") as raw:
        stream = _Headers(raw)
        with tarfile.open(fileobj=stream, mode="r:") as file:  # type: ignore[call-overload]
            while info := file.next():
                if not (info.isreg() or info.isdir()) or info.issparse() or info.size < 0:
                    raise ArchiveError(f"holds a link or special file, {info.name!r}; refused")
                yield Member(info.name, info.size if info.isreg() else 0, info.isdir(), partial(file.extractfile, info))
                # tarfile keeps all members it has seen.
                file.members.clear()
        # tarfile takes a header that is cut off, or none, for the end; a whole archive ends with a block of zeros.
        if stream.last != bytes(tarfile.BLOCKSIZE):
            raise ArchiveError("is damaged or cut off; fetch it again")
        # To the end, where the checksum is.
        if not any(not stream.read(_CHUNK) for _ in range(_HARMLESS // _CHUNK)):
            raise ArchiveError("holds data after its end; refused")


class _Headers:
    """A file to be read in small pieces only: a header that says it is large would be read into memory whole."""

    def __init__(self, raw: Any) -> None:
        self._raw, self.last = raw, b""
        self.seek, self.tell = raw.seek, raw.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _CHUNK:
            raise ArchiveError("holds a header of more than 1 MiB; refused")
        self.last = self._raw.read(size)
        return self.last
