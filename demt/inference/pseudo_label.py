"""Pictures labelled by a teacher, as a data set for `demt.data.MultiTaskFolder`."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image

from demt.data.doctor.convert import encode_file
from demt.data.files import PICTURES
from demt.data.folder import by_name
from demt.data.images import read_pixels
from demt.data.tv_tensors import IGNORE
from demt.files import LOCK, lock_folder, write_whole
from demt.inference.preprocess import shrink
from demt.inference.sure import Thresholds, how_stored, label
from demt.inference.teachers import Function, Pixels, Teacher, TeacherError, as_teacher
from demt.models import MultiTaskModel
from demt.tasks import TaskSpec, is_class_map

#: What was written by whom. A folder that has other files, but not this one, is left alone.
RECORD = "pseudo_labels.json"
#: Files on their way. What a killed run leaves there is deleted by the next.
_UNFINISHED = ".unfinished"


@dataclasses.dataclass(frozen=True)
class PseudoLabels:
    """A folder of labelled pictures: ``MultiTaskFolder(folder, tasks, encodings=encodings or None)`` reads it.

    Attributes:
        folder: The folder.
        tasks: All tasks that it has labels of, those of earlier teachers among them, as `MultiTaskFolder` takes them.
        encodings: How they are stored, as it takes that.
        failed: Why pictures were left out.
    """

    folder: Path
    tasks: str
    encodings: str
    failed: dict[Path, Exception]


def pseudo_label(
    teacher: MultiTaskModel | Function | str | PathLike[str],
    images: str | PathLike[str],
    out: str | PathLike[str],
    *,
    tasks: TaskSpec | Iterable[str] | str | None = None,
    size: int | None = None,
    negative: float = 0.35,
    positive: float = 0.6,
    confidence: float = 0.5,
    soft: bool = False,
    show: Callable[[list[str]], Iterable[str]] | None = None,
) -> PseudoLabels:
    """Label a folder of pictures, and write pictures and labels as a data set.

    After an interruption repeat the call: the folder ends up as after an uninterrupted one; pictures added
    since are labelled, too. Another teacher may add other tasks to the same folder. A picture that cannot be read is
    left out, and tried again by the next call.

    Args:
        teacher, tasks: See `demt.inference.teachers.as_teacher`.
        images: Folder of the pictures, with folders in it; it is only read.
        out: Folder of the data set: ``images`` with copies, and a folder of each task.
        size: Longer side of the copies: larger pictures are shrunk, and the teacher sees them so.
        negative, positive: Of `sal`, `edge` and their like: pixels of a probability below the one are background, above
            the other foreground, and unlabelled in between.
        soft: Keep the probabilities of `edge` and other boundaries as labels, in place of `negative` and `positive`:
            knowledge distillation (Hinton et al., 2015), which tells a strong boundary from a weak one. `sal`, a map of
            two classes, has no soft labels.
        confidence: Of class maps: pixels whose class has a lower probability are unlabelled. (Depth, normals and other
            values are as the teacher gives them; where they are not finite, or depth not above 0, there is no label.)
        show: Takes the names of the pictures and yields them, for a progress bar.

    Returns:
        The folder, what is in it, and which pictures failed.

    Raises:
        ValueError: for arguments that do not fit; `TeacherError` for maps of another size or kind than the tasks have;
            for a folder that was begun with another teacher of these tasks, or other settings.
        FileExistsError: for a folder that holds anything else.
        OSError: if a file cannot be written.
    """
    thresholds = Thresholds(negative=negative, positive=positive, confidence=confidence, soft=soft)
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"Expected `size` to be a whole number >= 1, got {size!r}")
    source, root = Path(images), Path(out)
    within = (source.resolve(), root.resolve())
    if within[0] in (within[1], *within[1].parents) or within[1] in within[0].parents:
        raise ValueError(
            f"`out` {str(root)!r} and `images` {str(source)!r} must not contain each other; give another folder"
        )
    pictures = by_name(source, PICTURES)
    judge = as_teacher(teacher, tasks)
    for task in judge.tasks.values():
        if task.name == "images" or (is_class_map(task) and task.channels > 255) or task.ignore_index != IGNORE:
            raise ValueError(f"Task {task.name!r} cannot be stored: see demt.data.MultiTaskFolder for what it reads")
    entries = {name: {"by": judge.about, **how_stored(task, thresholds)} for name, task in judge.tasks.items()}
    folder = _Folder(root, entries, size)
    failed: dict[Path, Exception] = {}
    with folder:
        for name in (show or list)(list(pictures)):
            file = pictures[name]
            if folder.has(name, file):
                continue
            try:
                pixels, shrunk = _read(source / file, size)
                labels = _labels(judge, pixels, thresholds)
            except TeacherError as error:
                raise TeacherError(f"{str(source / file)!r}: {error}") from error
            except (ValueError, OSError) as error:
                failed[source / file] = error
                continue
            folder.write(name, source / file, pixels if shrunk else None, file, labels)
    return PseudoLabels(root, *folder.declaration(), failed)


class _Folder:
    """The folder that is written: whole files, images before their labels."""

    def __init__(self, root: Path, entries: dict[str, dict[str, Any]], size: int | None) -> None:
        self.root, self.entries, self.size, self.staging = root, entries, size, root / _UNFINISHED
        self.record: dict[str, Any] = {}

    def __enter__(self) -> None:
        record = self.root / RECORD
        strange = self.root.exists() and (not self.root.is_dir() or set(_visible(self.root)) - {RECORD})
        if strange and not record.exists():
            raise FileExistsError(f"{str(self.root)!r} exists and is not a folder of pseudo-labels; give another")
        self.record = _read_record(record) if record.exists() else {"size": self.size, "tasks": {}}
        if self.record["size"] != self.size:
            raise ValueError(f"{str(self.root)!r} was started with `size` {self.record['size']}, now {self.size}")
        for name, entry in self.entries.items():
            if (before := self.record["tasks"].get(name, entry)) != entry:
                changed = sorted(key for key in {*before, *entry} if before.get(key) != entry.get(key))
                raise ValueError(
                    f"{str(self.root)!r} has labels of {name!r} with another {', '.join(changed)} "
                    f"({', '.join(str(before.get(key)) for key in changed)}, now "
                    f"{', '.join(str(entry.get(key)) for key in changed)}); give another folder"
                )
        self.lock = lock_folder(self.root, "labels there")
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir()
        self.record["tasks"] |= self.entries
        text = json.dumps(self.record, indent=2) + "\n"
        write_whole(record, lambda file: Path(file).write_text(text, encoding="utf-8"), within=self.staging)

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)
        self.lock.release()

    def has(self, name: str, file: str) -> bool:
        """Whether a picture and all its labels have been written."""
        pictures = (self.root / "images" / file, self.root / f"images/{name}.png")
        return any(map(Path.exists, pictures)) and all(self._label(name, task).exists() for task in self.entries)

    def write(self, name: str, source: Path, pixels: Pixels | None, file: str, labels: dict[str, NDArray[Any]]) -> None:
        """Write a picture, copied or shrunk, and its labels."""
        if pixels is None:
            self._put(self.root / "images" / file, lambda path: shutil.copyfile(source, path))
        else:
            picture = Image.fromarray(pixels)
            self._put(self.root / f"images/{name}.png", lambda path: picture.save(path, format="PNG"))
        for task, values in labels.items():
            target = self._label(name, task)
            self._put_bytes(target, encode_file(values, target.suffix))

    def _put(self, path: Path, write: Callable[[str], Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, write, within=self.staging)

    def _put_bytes(self, path: Path, content: bytes) -> None:
        self._put(path, lambda file: Path(file).write_bytes(content))

    def _label(self, name: str, task: str) -> Path:
        return self.root / task / f"{name}{self.entries[task]['ending']}"

    def declaration(self) -> tuple[str, str]:
        """Tasks and encodings of all that is in the folder, as text."""
        tasks = self.record["tasks"]
        encodings = [f"{name}={entry['encoding']}" for name, entry in tasks.items() if entry["encoding"]]
        return ",".join(entry["task"] for entry in tasks.values()), ",".join(encodings)


def _visible(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name not in (_UNFINISHED, LOCK)]


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        assert {"size", "tasks"} <= set(record)
        assert all({"task", "encoding", "ending"} <= set(entry) for entry in record["tasks"].values())
    except (ValueError, TypeError, AttributeError, AssertionError, RecursionError):
        raise ValueError(f"{str(path)!r} is damaged, or not a record of pseudo-labels; give another folder") from None
    return record  # type: ignore[no-any-return]


def _read(path: Path, size: int | None) -> tuple[Pixels, bool]:
    """A picture's pixels, and whether they were shrunk."""
    pixels = read_pixels(path)
    if size is None or max(pixels.shape[:2]) <= size:
        return pixels, False
    values = shrink(torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), size)
    return values[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy(), True


def _labels(teacher: Teacher, pixels: Pixels, thresholds: Thresholds) -> dict[str, NDArray[Any]]:
    """The labels of a picture as they are stored."""
    opinions = teacher.function(pixels)
    if strange := sorted(set(opinions) - set(teacher.tasks)) if "function" in teacher.about else []:
        raise TeacherError(f"the teacher gives maps of {strange}, but its `tasks` are {list(teacher.tasks)}")
    if missing := [name for name in teacher.tasks if name not in opinions]:
        raise TeacherError(f"the teacher gives no map of {missing}; it gives {sorted(opinions)}")
    return {name: label(task, opinions[name], pixels.shape[:2], thresholds) for name, task in teacher.tasks.items()}
