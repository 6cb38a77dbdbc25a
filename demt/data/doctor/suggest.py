"""What own data might be, by its folders' names and its first files: for people to confirm, never taken for granted."""

from __future__ import annotations

from pathlib import Path

from demt.data.doctor.recognise import spread
from demt.data.files import ARRAYS, PICTURES, DataError, read_array
from demt.data.folder import by_name
from demt.tasks import BUILTIN, is_class_map

_FILES = 8
#: What pictures of a task usually are.
_USUAL = {"sal": "mask", "depth": "millimetres", "normals": "rgb_normals", "edge": "grey"}


def suggest(root: Path) -> str | None:
    """Options of ``demt data check`` that fit the folders of ``root``, or None if it is no folder of own data."""
    tasks, encodings = [], []
    for name, task in BUILTIN.items():
        try:
            files = [root / name / file for file in by_name(root / name, PICTURES + ARRAYS).values()]
        except DataError:
            continue
        top, pictures = 0, False
        for path in spread(files, _FILES):
            try:
                stored = read_array(path)
            except (DataError, ImportError):
                continue
            pictures |= path.suffix.lower() in PICTURES
            known = stored[stored != 255] if stored.dtype.kind in "biu" else stored
            top = max(top, int(known.max())) if known.size and is_class_map(task) else top
        tasks.append(f"{name}={max(top + 1, 2)}" if task.activation == "argmax" else name)
        if pictures and name in _USUAL:
            encodings.append(f"{name}={_USUAL[name]}")
    if not tasks or not (root / "images").is_dir():
        return None
    return f"--tasks {','.join(tasks)}" + (f" --encodings {','.join(encodings)}" if encodings else "")
