"""Fetching the authors' checkpoints: download, check, convert, keep."""

from __future__ import annotations

import dataclasses
import json
import shutil
from os import PathLike
from pathlib import Path

from filelock import FileLock

from demt.config import ModelConfig
from demt.files import file_sha256
from demt.files.weights import read_weights
from demt.hub.folder import CONFIG, read_config, write_folder
from demt.models import MultiTaskModel
from demt.registry import full_name, get_config
from demt.released.cache import SOURCE, fetched_folder, how_to_get, released_cache, source_of
from demt.released.checkpoint import build, summary
from demt.released.convert import convert
from demt.released.drive import Progress, discard, download
from demt.released.tables import Published, names_of_file, published


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fetched:
    """A checkpoint in the cache.

    Args:
        name: What it holds, for `create_model(name, pretrained=True)`; it may be another than was asked for.
        folder: Where it is.
        label: What its authors call it.
        mismatch: In what it differs from that label.
        notes: In what it differs from the model of that name, which is built as the file says.
        left_out: Entries of the checkpoint that no output depends on.
        new: Whether it was converted now.
    """

    name: str
    folder: Path
    label: str
    mismatch: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: str = ""
    new: bool = True


def fetch(
    name: str,
    cache_dir: str | PathLike[str] | None = None,
    *,
    file: str | PathLike[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Fetched:
    """Download a checkpoint from its authors, find out what it holds, convert it and keep it in the cache.

    What a file holds is decided from its content. It is kept under the name of that, if the authors' tables give the
    file for it: for DeMTG and DeGMix they give one file. Nothing that the file names is imported or run.

    Args:
        name: A model's name, with or without tag, for which the authors published a file.
        cache_dir: The cache; see `demt.released.cache.released_cache`.
        file: The checkpoint, if it was downloaded by other means.
        force: Fetch and convert again what is in the cache already.
        progress: Called with the bytes so far and the bytes in all, if known.

    Raises:
        ValueError: if there is no such file, or the file is no checkpoint or one of another model.
        ImportError: if gdown is not installed.
        OSError: if the file cannot be downloaded or there is no room.
    """
    name, row = _row_of(name)
    root = released_cache(cache_dir)
    work = root / ".downloads"
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / f"{row.file_id}.lock"):
        if not force and (fetched := _already_fetched(name, row, root)) is not None:
            return fetched
        checkpoint = work / f"{row.file_id}.ckpt"
        if file is None:
            if force:
                discard(checkpoint)
            download(str(row.file_id), checkpoint, progress)
        try:
            fetched = _keep(name, row, Path(file or checkpoint), root)
        except _NotACheckpoint:
            if file is None:
                discard(checkpoint)
            raise
        discard(checkpoint)
    return fetched


def _row_of(name: str) -> tuple[str, Published]:
    name = full_name(name)
    get_config(name)
    row = published(name)
    if row is not None and row.file_id is None and row.page is not None:
        raise ValueError(str(how_to_get(name)))
    if row is None or row.file_id is None:
        raise ValueError(
            f"The authors published no checkpoint of {name!r}; demt list --pretrained shows which there are"
        )
    return name, row


def _already_fetched(asked: str, row: Published, root: Path) -> Fetched | None:
    """What the cache has of a row, be it under another name that the row's file turned out to hold."""
    for name in dict.fromkeys([asked, *names_of_file(str(row.file_id))]):
        folder = fetched_folder(name, root)
        if folder is not None and (name == asked or source_of(folder).get("file_id") == row.file_id):
            config, _ = read_config(folder / CONFIG)
            return Fetched(
                name=name,
                folder=folder,
                label=row.label,
                mismatch=mismatches(config, row.names[0]),
                notes=deviations(config, name),
                new=False,
            )
    return None


class _NotACheckpoint(ValueError):
    """The file is of no use, whatever it is asked for."""


def _keep(asked: str, row: Published, checkpoint: Path, root: Path) -> Fetched:
    """Convert a file into the cache's folder for what it holds."""
    try:
        converted = convert(read_weights(checkpoint))
        model = build(converted, quiet=True)
    except ValueError as error:
        raise _NotACheckpoint(f"What is published as {row.label!r} ({row.page}) cannot be used: {error}") from error
    mismatch = mismatches(converted.config, row.names[0])
    names = [asked, *names_of_file(str(row.file_id))]
    name = next((each for each in names if not mismatches(converted.config, each)), None)
    if name is None or not isinstance(model, MultiTaskModel):
        found = "; ".join(mismatch) or "a head without backbone"
        raise ValueError(
            f"The file published as {row.label!r} is not what its label says: {found}. Nothing was put into the cache. "
            f"To convert it anyway:  demt convert {checkpoint} FOLDER"
        )
    model.pretrained_cfg = get_config(name)[1]
    source = {
        "name": name,
        "label": row.label,
        "page": row.page,
        "file_id": row.file_id,
        "sha256": file_sha256(checkpoint),
    }
    staging = root / ".downloads" / f"{row.file_id}.folder"
    try:
        # What a killed conversion left.
        shutil.rmtree(staging, ignore_errors=True)
        write_folder(staging, model.config, model.pretrained_cfg, model.state_dict())
        (staging / SOURCE).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
        _put(staging, root / name)
    except OSError as error:
        raise OSError(f"The converted model cannot be written to {str(root)!r}: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Fetched(
        name=name,
        folder=root / name,
        label=row.label,
        mismatch=mismatch,
        notes=deviations(converted.config, name),
        left_out=summary(converted.unused),
    )


def mismatches(config: ModelConfig, name: str) -> tuple[str, ...]:
    """Where a checkpoint is not what a name says: family, backbone, or a task that the data set does not have."""
    wanted, _ = get_config(name)
    found = []
    if config.family != wanted.family:
        found.append(f"family {config.family}, not {wanted.family}")
    if config.backbone != wanted.backbone:
        found.append(f"backbone {config.backbone}, not {wanted.backbone}")
    tasks, expected = _channels(config), _channels(wanted)
    if not tasks.items() <= expected.items():
        found.append(f"tasks {_listed(tasks)}, not {_listed(expected)}")
    return tuple(found)


def deviations(config: ModelConfig, name: str) -> tuple[str, ...]:
    """Where a checkpoint that is what a name says differs from demt's model of that name all the same."""
    wanted, _ = get_config(name)
    found = []
    if missing := [task for task in wanted.tasks if task not in config.tasks]:
        found.append(f"no {', '.join(missing)}")
    for field in dataclasses.fields(ModelConfig):
        # Files say these two in numbers where names leave them to the family and the backbone.
        if field.name not in ("tasks", "neck", "head_width"):
            value, usual = getattr(config, field.name), getattr(wanted, field.name)
            found += [f"{field.name} {value}, not {usual}"] if value != usual else []
    count, usual = _count(config), _count(wanted)
    found += [f"{count / 1e6:.2f} M parameters, not {usual / 1e6:.2f} M"] if count != usual else []
    return tuple(found)


def _count(config: ModelConfig) -> int:
    return sum(parameter.numel() for parameter in MultiTaskModel.outline(config, "the checkpoint").parameters())


def _channels(config: ModelConfig) -> dict[str, int]:
    return {name: task.channels for name, task in config.tasks.items()}


def _listed(channels: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in channels.items())


def _put(staging: Path, folder: Path) -> None:
    """Put a complete folder in the place of an older one, which is there until then."""
    old = staging.with_suffix(".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
