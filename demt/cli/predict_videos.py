"""What `demt predict` does with videos and cameras."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from demt.models import MultiTaskModel

#: Endings of what is taken for a video.
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")


def is_video(argument: str) -> bool:
    """Whether an argument names a video file or a camera."""
    return Path(argument).suffix.lower() in VIDEOS or argument.startswith("/dev/video")


def targets(videos: Sequence[str], out: Path, tasks: Sequence[str]) -> dict[str, Path]:
    """The video that each becomes, in the folder of results; Matroska and WebM stay what they are.

    With `tasks` it is a video for each of these.

    Raises:
        ValueError: if two would become one.
        FileExistsError: if a file that `demt predict` did not write is in the way.
    """
    found: dict[str, Path] = {}
    if not videos:
        return found
    from demt.inference.video.write import check_target

    for video in videos:
        source = Path(video)
        ending = source.suffix.lower() if source.suffix.lower() in (".mkv", ".webm") else ".mp4"
        target = out / f"{source.stem}{ending}"
        if target in found.values() and video not in found:
            raise ValueError(f"Two videos would become {str(target)!r}; write them to different folders with --out")
        found[video] = target
        for file in (target.with_stem(f"{target.stem}_{task}") for task in tasks) if tasks else (target,):
            check_target(file)
    return found


def predict_videos(
    model: MultiTaskModel,
    videos: Mapping[str, Path],
    report: dict[str, Any],
    *,
    precision: str,
    advance: Callable[[], Any],
    **options: Any,
) -> None:
    """Predict on videos, and put into the report what was written and what failed.

    Args:
        model: The model.
        videos: Sources, and the files they become.
        report: Its entries "new", "failed" and "files" are added to.
        precision: See `demt.inference.forward.autocast`.
        advance: Called after each frame.
        options: Of `demt.inference.video.predict_video`.
    """
    from demt.inference.forward import autocast
    from demt.inference.video import predict_video

    context = autocast(next(model.parameters()).device, precision)
    for video, target in videos.items():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with context:
                summary = predict_video(model, video, target, on_frame=lambda _: advance(), **options)
        except (ValueError, FileNotFoundError) as error:
            report["failed"][video] = " ".join(str(error).split())
            continue
        report["new"] += 1
        report["files"][video] = [str(file) for file in summary.files]
