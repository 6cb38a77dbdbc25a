"""Video files that appear when they are complete, with the times that their frames had."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from demt.files import whole_file
from demt.inference.save import MARK
from demt.inference.video.read import pyav

#: By the ending of the file: container, encoder and its settings.
FORMATS = {
    ".mp4": ("mp4", "libx264", {"crf": "20", "preset": "veryfast"}),
    ".mov": ("mov", "libx264", {"crf": "20", "preset": "veryfast"}),
    ".mkv": ("matroska", "libx264", {"crf": "20", "preset": "veryfast"}),
    ".webm": ("webm", "libvpx-vp9", {"crf": "32", "b": "0", "deadline": "realtime", "cpu-used": "6"}),
}


def check_target(path: Path) -> None:
    """Raise an error where no video can be written: `ValueError` for the ending, `FileExistsError` for another file."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"Expected a video to end in {', '.join(FORMATS)}, got {str(path)!r}")
    if path.exists() and not _is_ours(path):
        raise FileExistsError(f"{str(path)!r} would be replaced, but is no file of `demt predict`; choose another name")


@contextlib.contextmanager
def video_file(path: Path, tick: Fraction, rate: Fraction) -> Iterator[VideoFile]:
    """A video to write, which takes its place when all is well; after an error there is none.

    Args:
        path: Its ending is one of `FORMATS`.
        tick: Unit of the frames' times, in seconds. Matroska and WebM round to milliseconds.
        rate: Frames per second on average, for the encoder's use of bits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        container, codec, options = FORMATS[path.suffix.lower()]
        with pyav().open(temporary, "w", format=container) as file:
            file.metadata["comment"] = MARK
            stream = file.add_stream(codec, rate=rate, options=options)
            stream.pix_fmt = "yuv420p"
            stream.time_base = stream.codec_context.time_base = tick
            video = VideoFile(file, stream, tick)
            yield video
            file.mux(stream.encode())


class VideoFile:
    """A video that is being written."""

    def __init__(self, file: Any, stream: Any, tick: Fraction) -> None:
        self.file, self.stream, self.tick = file, stream, tick
        self.last: int | None = None

    def write(self, picture: Image.Image, time: Fraction) -> None:
        """Add a frame, of the first one's size, which is even."""
        if self.last is None:
            self.stream.width, self.stream.height = picture.size
        frame = pyav().VideoFrame.from_image(picture)
        tick = round(time / self.tick)
        # Two frames of one time, as damaged files and some cameras have, would end the file.
        frame.pts = tick if self.last is None else max(tick, self.last + 1)
        frame.time_base, self.last = self.tick, frame.pts
        self.file.mux(self.stream.encode(frame))


def _is_ours(path: Path) -> bool:
    av = pyav()
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            return MARK in container.metadata.values()
    except (av.error.FFmpegError, ValueError):
        return False
