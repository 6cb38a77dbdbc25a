"""`predict_video`: every frame of a video through a model."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from demt.data.images import read_image
from demt.inference.blend import argmax_at_size, blendable, finish
from demt.inference.forward import finite_logits, in_eval_mode
from demt.inference.predict import predict
from demt.inference.prediction import Prediction, make_prediction
from demt.inference.preprocess import prepare
from demt.inference.video.look import Look
from demt.inference.video.read import Frame, Source, VideoCutOffError, read_frames
from demt.inference.video.smooth import Smoother
from demt.inference.video.write import VideoFile, check_target, video_file
from demt.models import MultiTaskModel
from demt.ops.resize import resize

Layout = Literal["beside", "tasks"]
_logger = logging.getLogger("demt")


class VideoFrame(NamedTuple):
    """A frame of a video and what a model says about it.

    Attributes:
        time: Seconds, as in the video.
        image: The frame, (H, W, 3) uint8, upright.
        prediction: As `demt.predict` gives it.
    """

    time: float
    image: NDArray[np.uint8]
    prediction: Prediction


@dataclasses.dataclass(frozen=True)
class VideoSummary:
    """What was written.

    Attributes:
        files: The videos.
        frames: Number of frames of each, which is that of the source.
        seconds: How long it took.
    """

    files: tuple[Path, ...]
    frames: int
    seconds: float


@overload
def predict_video(
    model: MultiTaskModel,
    source: Source,
    out: None = ...,
    *,
    layout: Layout = ...,
    smoothing: float = ...,
    max_size: int | None = ...,
    batch_size: int = ...,
    cell_width: int = ...,
    frames: int | None = ...,
    on_frame: Callable[[VideoFrame], Any] | None = ...,
) -> Iterator[VideoFrame]: ...
@overload
def predict_video(
    model: MultiTaskModel,
    source: Source,
    out: str | PathLike[str],
    *,
    layout: Layout = ...,
    smoothing: float = ...,
    max_size: int | None = ...,
    batch_size: int = ...,
    cell_width: int = ...,
    frames: int | None = ...,
    on_frame: Callable[[VideoFrame], Any] | None = ...,
) -> VideoSummary: ...
def predict_video(
    model: MultiTaskModel,
    source: Source,
    out: str | PathLike[str] | None = None,
    *,
    layout: Layout = "beside",
    smoothing: float = 0.0,
    max_size: int | None = None,
    batch_size: int = 4,
    cell_width: int = 640,
    frames: int | None = None,
    on_frame: Callable[[VideoFrame], Any] | None = None,
) -> Iterator[VideoFrame] | VideoSummary:
    """Predict every task of a model on every frame of a video or a camera.

    Frames are decoded, run and written as they come: memory does not grow with the length. A video's rotation is
    applied, its sound is left out.

    Args:
        model: See `demt.predict`.
        source: A video file, or a camera: its number or device (``/dev/video0``), on Linux. A camera's frames wait
            until `batch_size` of them are there.
        out: Video to write, ending in .mp4, .mov, .mkv or .webm; it appears when all frames are in it. Every frame of
            the source is in it, at its own time. Without it, frames are given one by one instead.
        layout: ``"beside"``: one video of the frames and all tasks; ``"tasks"``: one for each task, ``OUT_TASK.mp4``.
            They are compressed with losses, for viewing; for values, take the frames one by one.
        smoothing: Time constant, in seconds, of means over the past (see `demt.inference.video.smooth.Smoother`); 0
            for none. For cameras that stand still or move slowly: motion is not tracked.
        max_size: See `demt.predict`.
        batch_size: How many frames run at once.
        cell_width: Largest width, in pixels, of the picture of a frame or a task in what is written.
        frames: How many frames to take, by default all; a camera has no end.
        on_frame: Called with each frame that was written, where `out` is given: for a progress bar.

    Returns:
        Without `out` an iterator over `VideoFrame`, else a `VideoSummary` when all is written.

    Raises:
        FileNotFoundError: if there is no such file or camera.
        FileExistsError: if a file that `demt predict` did not write has the name of `out`.
        ValueError: for arguments that do not fit, a source that is not a video, has no pictures, or changes their size;
            no file is left then. `VideoCutOffError`, a `ValueError`, for a video that is cut off or damaged: after its
            last frame; what could be decoded is written, and the message says how many frames that is.
        ImportError: if PyAV is missing (``pip install 'demt[video]'``).
    """
    if not isinstance(model, MultiTaskModel):
        raise ValueError(f"Expected `model` to be a demt model, got {type(model).__name__}; see demt.create_model")
    if isinstance(source, bool) or not isinstance(source, (str, PathLike, int)):
        raise ValueError(f"Expected `source` to be a video file or the number of a camera, got {source!r}")
    counts = {"batch_size": batch_size, "max_size": max_size, "cell_width": cell_width, "frames": frames}
    for name, value in counts.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"Expected `{name}` to be an integer >= 1, got {value!r}")
    if not isinstance(smoothing, (int, float)) or not 0 <= smoothing < float("inf"):
        raise ValueError(f"Expected `smoothing` to be seconds >= 0, got {smoothing!r}")
    if layout not in get_args(Layout):
        raise ValueError(f"Expected `layout` to be one of {get_args(Layout)}, got {layout!r}")
    model = in_eval_mode(model)
    smoother = Smoother(model.tasks, smoothing) if smoothing else None
    pairs = _run(model, source, smoother, max_size or model.pretrained_cfg.max_size, batch_size, frames)
    if out is None:
        return (_public(*pair) for pair in pairs)
    return _write(model, pairs, Path(out), layout, cell_width, on_frame)


def _public(frame: Frame, prediction: Prediction) -> VideoFrame:
    return VideoFrame(float(frame.time), frame.pixels, prediction)


def _run(
    model: MultiTaskModel,
    source: Source,
    smoother: Smoother | None,
    max_size: int | None,
    batch_size: int,
    limit: int | None,
) -> Iterator[tuple[Frame, Prediction]]:
    for batch in _batches(read_frames(source), batch_size, limit):
        if smoother is None:
            pixels = [frame.pixels for frame in batch]
            yield from zip(batch, predict(model, pixels, max_size=max_size, batch_size=batch_size))
        else:
            yield from zip(batch, _smoothed(model, batch, smoother, max_size))


def _batches(frames: Iterator[Frame], size: int, limit: int | None) -> Iterator[list[Frame]]:
    """Frames in groups; before an error, those that were read."""
    batch: list[Frame] = []
    count = 0
    try:
        for count, frame in enumerate(frames, 1):
            batch.append(frame)
            if len(batch) == size or count == limit:
                yield batch
                batch = []
            if count == limit:
                return
    except VideoCutOffError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


@torch.inference_mode()
def _smoothed(model: MultiTaskModel, batch: list[Frame], smoother: Smoother, max_size: int | None) -> list[Prediction]:
    images = [read_image(frame.pixels) for frame in batch]
    logits = finite_logits(model, torch.cat([prepare(model, image, max_size) for image in images]))
    values = {name: blendable(model.tasks[name], maps) for name, maps in logits.items()}
    size = tuple(images[0].shape[-2:])
    predictions = []
    for row, (frame, image) in enumerate(zip(batch, images)):
        means = smoother(frame.time, {name: maps[row : row + 1] for name, maps in values.items()})
        maps = {name: _settled(model.tasks[name], mean, size) for name, mean in means.items()}
        predictions.append(make_prediction(model, image, maps))
    return predictions


def _settled(task: Any, mean: torch.Tensor, size: tuple[int, ...]) -> NDArray[Any]:
    if task.activation == "argmax":
        return argmax_at_size(mean, size)
    return finish(task, resize(mean, size)[0]).cpu().numpy()


def _write(
    model: MultiTaskModel,
    pairs: Iterator[tuple[Frame, Prediction]],
    out: Path,
    layout: Layout,
    cell_width: int,
    on_frame: Callable[[VideoFrame], Any] | None,
) -> VideoSummary:
    names: list[str | None] = [None] if layout == "beside" else list(model.tasks)
    paths = {name: out if name is None else out.with_stem(f"{out.stem}_{name}") for name in names}
    for path in paths.values():
        check_target(path)
    look, start, count, cut = Look(model.tasks, cell_width), time.monotonic(), 0, None
    with contextlib.ExitStack() as stack:
        videos: dict[str | None, VideoFile] = {}
        try:
            for frame, prediction in pairs:
                if not videos:
                    videos = {
                        name: stack.enter_context(video_file(path, frame.tick, frame.rate))
                        for name, path in paths.items()
                    }
                shown: dict[Any, Image.Image] = (
                    {None: look.beside(prediction)} if layout == "beside" else look.pictures(prediction)
                )
                for name, video in videos.items():
                    video.write(shown[name], frame.time)
                count += 1
                if on_frame is not None:
                    on_frame(_public(frame, prediction))
        except VideoCutOffError as error:
            cut = error
    if cut is not None:
        written = ", ".join(map(str, paths.values())) if count else "nothing"
        raise VideoCutOffError(f"{cut}; written: {written}") from cut
    if not count:
        raise ValueError("The video has no frames: nothing is written")
    summary = VideoSummary(tuple(paths.values()), count, time.monotonic() - start)
    _logger.info("%d frames in %.1f s, %.1f a second", count, summary.seconds, count / summary.seconds)
    return summary
