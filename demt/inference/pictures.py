"""Which pictures a user means by files, folders, patterns and lists, and what their results are called."""

from __future__ import annotations

import dataclasses
import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path

from demt.data.files import PICTURES, is_hidden
from demt.inference.save import mark_of

#: Ending of a shard of WebDataset, an archive of many pictures.
SHARD = ".tar"
#: Pictures that are looked at together: those of one size run in batches. Processes take whole windows in turn.
WINDOW = 128


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture to predict on, or a shard of them.

    Attributes:
        path: Its file.
        name: Of its results: a path without ending, relative to the folder of results, with ``/``.
    """

    path: Path
    name: str


def find_pictures(
    images: str | PathLike[str] | Iterable[str | PathLike[str]],
    *,
    lists: Iterable[str | PathLike[str]] = (),
    out: str | PathLike[str] | None = None,
) -> list[Picture]:
    """The pictures that files, folders, patterns and lists name, each once.

    A file's results have its name. A folder is searched to the bottom for files with the endings of
    `demt.data.files.PICTURES`, sorted, without hidden ones; results keep the folders below it. In a pattern ``*`` and
    ``?`` stand for parts of a name and ``**`` for any folders; results keep the folders behind its first such part.
    Names and patterns, but not folders, may stand for shards of WebDataset, too (``.tar``).
    Results of what a list names keep all folders. Where two pictures have one name, the second is called ``NAME_2``.

    Args:
        images: Files, folders, patterns such as ``"photos/**/*.jpg"``, or ``"@FILE"`` for a list.
        lists: Text files of such names (but for ``@``), one a line, or ``"-"`` for standard input. Relative ones are
            relative to the working directory.
        out: Folder of results: those that are there already are no pictures.

    Raises:
        FileNotFoundError: for a list that does not exist.
        ValueError: for a folder or pattern without pictures, or a list that is no text.
    """
    arguments = [images] if isinstance(images, (str, PathLike)) else list(images)
    results = Path(out).resolve() if out is not None and Path(out).is_dir() else None
    found: dict[Path, Path] = {}
    for argument in map(str, arguments):
        if argument.startswith("@") and not Path(argument).exists():
            pairs = _listed(argument[1:], results)
        else:
            pairs = _named(argument, results)
        for path, name in pairs:
            found.setdefault(path, name)
    for file in lists:
        for path, name in _listed(str(file), results):
            found.setdefault(path, name)
    return [Picture(path, name) for path, name in zip(found, _unique(list(found.values())))]


@dataclasses.dataclass(frozen=True)
class Saved:
    """What became of a picture, or of a shard of pictures that is there already.

    Attributes:
        picture: The picture; one of a shard has the path ``SHARD/KEY``.
        files: Its files in the folder of results; none if there is an error.
        error: Why there are none.
        is_new: Whether this call wrote them; an earlier one did otherwise.
    """

    picture: Picture
    files: tuple[Path, ...]
    error: Exception | None = None
    is_new: bool = True


def share(count: int, process: tuple[int, int], window: int | None = None) -> Iterator[range]:
    """Windows of ``range(count)`` that a process, given as its rank and the number of them, takes.

    Example:
        >>> [list(each) for each in share(5, (0, 2), window=2)]
        [[0, 1], [4]]
    """
    (rank, processes), window = process, window or WINDOW
    for start in range(rank * window, count, processes * window):
        yield range(start, min(start + window, count))


def _named(argument: str, results: Path | None) -> list[tuple[Path, Path]]:
    """Files that an argument names, and the paths of their results."""
    path = Path(argument)
    if path.is_dir():
        below = sorted(path.rglob("*"))
        found = [(file, file.relative_to(path)) for file in below if _is_picture(file) and file.is_file()]
        found = [(file, name) for file, name in found if not is_hidden(name) and not _is_result(file, results)]
        if not found:
            raise ValueError(f"No pictures in {argument!r}; their names end in one of {', '.join(PICTURES)}")
        return found
    if path.exists() or not glob.has_magic(argument):
        return [(path, Path(path.name))]
    root = Path(*_before_pattern(path))
    files = [Path(file) for file in sorted(glob.glob(argument, recursive=True))]
    found = [(file, file.relative_to(root)) for file in files if _is_input(file) and file.is_file()]
    found = [(file, name) for file, name in found if not is_hidden(name) and not _is_result(file, results)]
    if not found:
        raise ValueError(f"No picture fits {argument!r}; their names end in one of {', '.join(PICTURES)}")
    return found


def _listed(file: str, results: Path | None) -> list[tuple[Path, Path]]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"No list of pictures at {file!r}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file!r} is no list of pictures: expected text (UTF-8), one name a line") from None
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    if not lines:
        raise ValueError(f"{file!r} names no pictures; expected one name a line")
    return [(path, _whole(path)) for line in lines for path, _ in _named(line, results)]


def _whole(path: Path) -> Path:
    """A path below any folder: without the root, and without steps up."""
    path = Path(os.path.normpath(path.absolute())) if ".." in path.parts else path
    return path.relative_to(path.anchor)


def _before_pattern(path: Path) -> list[str]:
    parts = list(path.parts)
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return parts[:first]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES


def _is_input(path: Path) -> bool:
    return _is_picture(path) or path.suffix.lower() == SHARD


def _is_result(path: Path, results: Path | None) -> bool:
    """Whether a picture is one that an earlier call wrote to the folder of results."""
    return results is not None and path.resolve().is_relative_to(results) and mark_of(path) is not None


def _unique(names: Sequence[Path]) -> list[str]:
    taken: set[str] = set()
    unique = []
    for path in names:
        stem = path.with_suffix("").as_posix()
        name, count = stem, 1
        # Some file systems do not tell A from a.
        while name.casefold() in taken:
            count += 1
            name = f"{stem}_{count}"
        taken.add(name.casefold())
        unique.append(name)
    return unique
