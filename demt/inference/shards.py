"""Shards of WebDataset, archives of pictures and what belongs to them: ``pip install 'demt[webdataset]'``."""

from __future__ import annotations

import dataclasses
import io
import itertools
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO

from demt.data.files import MAX_BYTES, PICTURES
from demt.inference import pictures
from demt.inference.save import mark_of


class ShardError(ValueError):
    """A shard cannot be read to its end."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A picture of a shard.

    Attributes:
        key: Its name in the shard.
        path: What errors call it, ``SHARD/KEY.ENDING``.
        contents: Its file.
    """

    key: str
    path: Path
    contents: bytes


def need_webdataset() -> ModuleType:
    """WebDataset, or `ImportError` with how to get it."""
    try:
        import webdataset
    except ImportError:
        raise ImportError("Shards (.tar) need WebDataset: pip install 'demt[webdataset]'") from None
    return webdataset  # type: ignore[no-any-return]


def read_shard(path: Path) -> Iterator[Sample]:
    """The pictures of a shard: of each key the first file whose name ends as a picture's does.

    Raises:
        ShardError: naming the shard, if it cannot be read, or has a key without picture.
    """
    iterators = need_webdataset().tariterators
    try:
        with path.open("rb") as stream:
            _check_end(stream, path)
            # An open file, never a name: WebDataset would run what follows "pipe:" in one.
            files = iterators.tar_file_expander([{"url": str(path), "stream": stream}])
            for sample in iterators.group_by_keys(files):
                found = [name for name in sample if f".{name.rpartition('.')[2]}" in PICTURES]
                # "jpg" before "mask.png".
                name = min(found, key=lambda name: name.count("."), default=None)
                if name is None:
                    raise ShardError(f"{str(path)!r} has no picture for {sample['__key__']!r}")
                yield Sample(sample["__key__"], path / f"{sample['__key__']}.{name}", sample[name])
    except ShardError:
        raise
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise ShardError(
            f"{str(path)!r} cannot be read as a shard: {error.args[0] if error.args else error}"
        ) from error


def _check_end(stream: IO[bytes], path: Path) -> None:
    """A whole archive ends in zeros; readers take one that was cut off between two files for a whole one."""
    start = stream.read(6)
    compressed = start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"))
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(size - 1024, 0))
    if not compressed and (size < 1024 or any(stream.read(1024))):
        raise ShardError(f"{str(path)!r} cannot be read as a shard: it is cut off, or not an archive")
    stream.seek(0)


def windows_of(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    """Samples in windows, as `demt.inference.pictures.WINDOW` has it."""
    while window := list(itertools.islice(samples, pictures.WINDOW)):
        yield window


@contextmanager
def shard_writer(path: str) -> Iterator[Callable[[str, Mapping[str, bytes]], None]]:
    """A function that adds the files of a picture, by ending, to a new shard; the same files give the same bytes."""
    with open(path, "wb") as file, need_webdataset().TarWriter(file, encoder=False, mtime=0) as writer:
        yield lambda key, files: writer.write(
            {"__key__": key, **{ending.lstrip("_."): contents for ending, contents in files.items()}}
        )


def mark_of_shard(path: Path) -> str | None:
    """Which call wrote a shard, as `demt.inference.save.mark_of` finds in its first file; None for anyone else's."""
    try:
        with tarfile.open(path) as archive:
            first = archive.next()
            if first is None or first.size > MAX_BYTES or (file := archive.extractfile(first)) is None:
                return None
            return mark_of(io.BytesIO(file.read()))
    except (tarfile.TarError, EOFError, OSError):
        return None
