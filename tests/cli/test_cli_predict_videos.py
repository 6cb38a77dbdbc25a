"""`demt predict` hands videos to `predict_video`."""

import json
from fractions import Fraction

import numpy as np
import pytest
from typer.testing import CliRunner

from demt.cli import app
from demt.cli.predict_videos import is_video, targets

av = pytest.importorskip("av")


def write_video(path, frames=3):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10), options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 60 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def run(*arguments):
    command = ["predict", "-m", "multitask_baseline_nano.rooms", *map(str, arguments)]
    return CliRunner().invoke(app, command)


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def test_videos_and_pictures_in_one_command(tmp_path):
    write_video(tmp_path / "walk.mov")
    (tmp_path / "text.mp4").write_text("text")
    arguments = (tmp_path / "walk.mov", tmp_path / "text.mp4", tmp_path / "none.png", "-o", tmp_path / "out", "--json")
    result = run(*arguments)
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    walk = str(tmp_path / "out/walk.mp4")
    assert document["pictures"] == [{"image": str(tmp_path / "walk.mov"), "files": [walk]}]
    failed = {entry["image"]: entry["error"] for entry in document["failed"]}
    assert set(failed) == {str(tmp_path / "text.mp4"), str(tmp_path / "none.png")}
    assert frames_of(walk) == pytest.approx(frames_of(tmp_path / "walk.mov"), abs=1e-3)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["walk.mp4"]


def test_a_video_for_each_task(tmp_path):
    write_video(tmp_path / "walk.mkv")
    result = run(tmp_path / "walk.mkv", "-o", tmp_path / "out", "--layout", "tasks", "--frames", 2)
    assert result.exit_code == 0, result.output
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert sorted(result.stdout.splitlines()) == sorted(str(tmp_path / "out" / name) for name in files)
    assert "walk_depth.mkv" in files
    assert len(frames_of(tmp_path / "out/walk_depth.mkv")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["walk.mp4", "--tile", "32"], "--tile and --tasks are for pictures"),
        (["/dev/video9"], "A camera has no end: say how many frames to take, --frames N"),
        (["/dev/video9", "--frames", "2"], "/dev/video9"),
        (["none.mp4"], "none.mp4"),
        (["walk.mp4", "--layout", "above"], "`layout` to be one of"),
        (["walk.mp4", "walk.avi"], "Two videos would become 'predictions/walk.mp4'"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("walk.mp4")
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.glob("predictions/*"))


def test_files_of_others_are_not_replaced(tmp_path):
    write_video(tmp_path / "walk.mp4")
    before = (tmp_path / "walk.mp4").read_bytes()
    result = run(tmp_path / "walk.mp4", "-o", tmp_path)
    assert result.exit_code == 1
    assert "would be replaced, but is no file of `demt predict`" in result.stderr
    assert (tmp_path / "walk.mp4").read_bytes() == before


def test_what_is_a_video(tmp_path):
    assert is_video("a/B.MP4")
    assert is_video("/dev/video0")
    assert not is_video("photos")
    assert not is_video("a.png")
    assert targets(["a.avi", "b.webm"], tmp_path, []) == {"a.avi": tmp_path / "a.mp4", "b.webm": tmp_path / "b.webm"}
