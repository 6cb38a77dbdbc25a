"""The frames of a video file or a camera, upright and with their times."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from demt.data.files import MAX_PIXELS

Source: TypeAlias = "str | PathLike[str] | int"
#: Seconds by which a video's last frame may end before its header says.
_SLACK = Fraction(1, 2)


class VideoCutOffError(ValueError):
    """A video ends before its header says, or holds frames that do not decode; its other frames were given before."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """A decoded frame.

    Attributes:
        time: Seconds, exact, as the file has them.
        pixels: (H, W, 3) uint8, RGB, upright.
        tick: Unit of the times in the file, in seconds.
        rate: Frames per second on average, as far as the file says.
    """

    time: Fraction
    pixels: NDArray[np.uint8]
    tick: Fraction
    rate: Fraction


def pyav() -> ModuleType:
    """PyAV, or `ImportError` with how to get it."""
    try:
        import av
    except ImportError:
        raise ImportError("Videos need PyAV: pip install 'demt[video]'") from None
    av.logging.set_level(None)
    return av


def camera_of(source: Source) -> str | None:
    """The device of a camera, or None for a file."""
    if isinstance(source, int):
        return f"/dev/video{source}"
    return str(source) if str(source).startswith("/dev/video") else None


def read_frames(source: Source) -> Iterator[Frame]:
    """The frames of a video, one after the other.

    Args:
        source: A file, or a camera: its number or device (``/dev/video0``), on Linux.

    Raises:
        FileNotFoundError: if there is no such file or camera.
        ValueError: if it is not a video, has no pictures, or its frames change their size; `VideoCutOffError`, after
            the last frame, if frames are missing.
        ImportError: if PyAV is missing.
    """
    name = camera_of(source) or str(source)
    with _open(source) as container:
        pictures = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
        if not pictures:
            raise ValueError(f"{name!r} has no pictures: it is not a video, or has only sound")
        stream = pictures[0]
        stream.thread_type = "AUTO"
        rate, tick = stream.average_rate or Fraction(25), stream.time_base or Fraction(1, 90000)
        count, gap = 0, Fraction(0)
        size: tuple[int, ...] = ()
        last: Fraction | None = None
        damage = _Damage()
        for frame in _decoded(container, stream, damage):
            pixels = _upright(frame, name)
            size = pixels.shape[:2] if count == 0 else size
            if pixels.shape[:2] != size:
                raise ValueError(
                    f"{name!r} changes its size at frame {count + 1}, from {_shown(size)} to {_shown(pixels.shape)} "
                    "pixels: cut it there, and give the parts one by one"
                )
            time = count / rate if frame.pts is None else frame.pts * tick
            gap = gap if last is None else max(gap, time - last)
            count, last = count + 1, time
            yield Frame(time, pixels, tick, rate)
        missing = damage.found or damage.packets < _announced(container, stream)
        if last is None:
            raise VideoCutOffError(f"{name!r} is cut off or damaged: not one frame can be decoded")
        if missing or (_duration(stream) or 0) - (last - (stream.start_time or 0) * tick) > gap + _SLACK:
            raise VideoCutOffError(f"{name!r} is cut off or damaged: {count} frames could be decoded")


class _Damage:
    """What went wrong, and how many packets did not."""

    def __init__(self) -> None:
        self.packets, self.found = 0, False


def _open(source: Source) -> Any:
    av = pyav()
    camera = camera_of(source)
    if camera is not None:
        try:
            return av.open(camera, format="v4l2")
        except (av.error.FFmpegError, ValueError) as error:
            found = sorted(str(path) for path in Path("/dev").glob("video*"))
            raise FileNotFoundError(
                f"No camera at {camera!r} ({_reason(error)}); available: {', '.join(found) or 'none'}"
            ) from error
    path = Path(source)  # type: ignore[arg-type]
    if not path.is_file():
        raise FileNotFoundError(f"No video at {str(path)!r}")
    try:
        # A playlist must not open other files.
        return av.open(str(path), options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as a video: it is not one, or is cut off before its index ({_reason(error)})"
        ) from error


def _decoded(container: Any, stream: Any, damage: _Damage) -> Iterator[Any]:
    """Frames in the order they are shown in; what is broken is noted and skipped."""
    av = pyav()
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            packet, damage.found = None, True
        if packet is None:
            break
        damage.found |= packet.is_corrupt
        damage.packets += packet.size > 0
        if packet.size and not packet.is_corrupt:
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                damage.found = True
    try:
        yield from stream.codec_context.decode(None)
    except av.error.EOFError:
        pass
    except av.error.FFmpegError:
        damage.found = True


def _announced(container: Any, stream: Any) -> int:
    """Number of frames that the header promises, where it can be relied on: edited MP4 files hold fewer."""
    return stream.frames if container.format.name == "avi" else 0


def _duration(stream: Any) -> Fraction | None:
    """Length in seconds that a Matroska or WebM file gives for its pictures."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (Fraction(part) for part in parts)
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds


def _upright(frame: Any, name: str) -> NDArray[np.uint8]:
    if frame.width * frame.height > MAX_PIXELS:
        raise ValueError(f"{name!r} has frames of {frame.width} x {frame.height} pixels; the most is {MAX_PIXELS}")
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


def _shown(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]}"


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
