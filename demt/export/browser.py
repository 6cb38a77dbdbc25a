"""A web page that runs a model in the browser, on pictures that are dropped on it and never leave the computer."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import shutil
from os import PathLike
from pathlib import Path
from typing import Any

from demt.classes import voc_palette
from demt.config import each_channel
from demt.data.files import MAX_PIXELS
from demt.export.write import Exported, describe, export
from demt.files import new_folder
from demt.models import MultiTaskModel
from demt.tasks import Task
from demt.viz import RAMP, title

#: The release of the npm package onnxruntime-web, and checksums of its two files that the page loads.
VERSION = "1.30.0"
MODULE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
INTEGRITY = {
    MODULE: "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    WASM: "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}
ADDRESS = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist"
_PAGE = Path(__file__).parent / "page"


def export_browser(
    model: MultiTaskModel,
    folder: str | PathLike[str],
    *,
    name: str = "demt",
    runtime: str | PathLike[str] | None = None,
) -> Exported:
    """Write a folder for any web server of files: a page that runs a model on pictures dropped on it, in the browser.

    In it are ``index.html`` and ``page.js``; ``model.onnx``, with weights in float16 (see `demt.export.export`);
    ``model.json``, how pictures are prepared and tasks drawn. Pictures are read, shrunk and normalised as
    `demt.preprocess` does and drawn in the colours of `demt.viz`, at the size at which the network runs.

    Args:
        model: In float32, for images of three channels.
        folder: New or empty.
        name: The page's heading.
        runtime: The folder ``dist`` of the npm package ``onnxruntime-web``, in the release `VERSION`, whose files are
            copied beside the page. By default the page loads them from a public mirror of npm, and checks them.

    Returns:
        What `demt.export.export` says of ``model.onnx``.

    Raises:
        FileExistsError, FileNotFoundError, ValueError, ImportError, ExportError: see `demt.export.export`; also for a
            folder that is not empty, or a `runtime` without the files or with those of another release.
    """
    if isinstance(model, MultiTaskModel) and model.config.in_chans != 3:
        raise ValueError(f"Expected a model of pictures with 3 channels, got one of {model.config.in_chans}")
    if runtime is not None:
        _check_runtime(Path(runtime))
    place = ADDRESS if runtime is None else "."
    with new_folder(Path(folder)) as partial:
        written = export(model, partial / "model.onnx", float16=True)
        about = _about(model) | {"runtime": {"wasm": f"{place}/{WASM}", "integrity": INTEGRITY[WASM]}}
        (partial / "model.json").write_text(json.dumps(about), encoding="utf-8")
        page = (_PAGE / "index.html").read_text(encoding="utf-8")
        for key, value in {
            "title": html.escape(name),
            "runtime": f"{place}/{MODULE}",
            "integrity": INTEGRITY[MODULE],
        }.items():
            page = page.replace(f"{{{{{key}}}}}", value)
        (partial / "index.html").write_text(page, encoding="utf-8")
        shutil.copyfile(_PAGE / "page.js", partial / "page.js")
        for file in INTEGRITY if runtime is not None else ():
            shutil.copyfile(Path(runtime) / file, partial / file)  # type: ignore[arg-type]
    return written


def _check_runtime(folder: Path) -> None:
    for file, expected in INTEGRITY.items():
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"No {file} in {str(folder)!r}: give the folder dist of npm's onnxruntime-web {VERSION}, "
                f"npm install onnxruntime-web@{VERSION}"
            )
        digest = base64.b64encode(hashlib.sha384((folder / file).read_bytes()).digest()).decode()
        if f"sha384-{digest}" != expected:
            raise ValueError(f"Expected {str(folder / file)!r} of onnxruntime-web {VERSION}, got another release's")


def _about(model: MultiTaskModel) -> dict[str, Any]:
    """What the page must know, as JSON values."""
    cfg = each_channel(model.pretrained_cfg, 3)
    said = describe(model, False, None)["tasks"]
    return {
        "mean": cfg.mean,
        "std": cfg.std,
        "max_size": cfg.max_size or max(cfg.input_size[1:]),
        "max_pixels": MAX_PIXELS,
        "ramp": RAMP.tolist(),
        "tasks": [_drawn(task, fields) for task, fields in zip(model.tasks.values(), said)],
    }


def _drawn(task: Task, fields: dict[str, Any]) -> dict[str, Any]:
    palette = (task.palette or voc_palette(task.channels)) if task.activation == "argmax" else None
    return fields | {"title": title(task), "palette": palette}
