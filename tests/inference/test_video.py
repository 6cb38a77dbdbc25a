"""Videos made here: every frame comes out, at its time, upright; broken ones end in one clear line."""

import logging
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

import demt
from demt.inference.video import VideoCutOffError, predict_video
from demt.inference.video.read import read_frames
from demt.inference.video.smooth import Smoother
from demt.tasks import DATASETS

av = pytest.importorskip("av")

#: Milliseconds at which the frames of a video of changing rate are shown.
TIMES = [0, 40, 80, 200, 210, 400, 1000, 1033, 1066]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return demt.create_model("demt_nano", tasks=DATASETS["rooms"]).eval()


def make_video(path, times=TIMES, *, size=(64, 48), codec="libx264", start=0, pixels=None, **options):
    """A video of noise over a ramp, shown at these milliseconds."""
    width, height = size
    rng = np.random.default_rng(0)
    tick = Fraction(1, 25) if path.suffix == ".avi" else Fraction(1, 1000)
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = tick
        for index, time in enumerate(times):
            values = rng.integers(0, 100, (height, width, 3), np.uint8) + np.linspace(0, 150, width)[None, :, None]
            values = values.astype(np.uint8) if pixels is None else pixels
            frame = av.VideoFrame.from_ndarray(values, format="rgb24")
            frame.pts, frame.time_base = (index if path.suffix == ".avi" else time + start), tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def frames_of(path):
    """Times in milliseconds and pixels, by PyAV alone."""
    with av.open(str(path)) as file:
        return [(float(f.pts * f.time_base * 1000), f.to_ndarray(format="rgb24")) for f in file.decode(video=0)]


def test_frames_come_with_their_times_and_predictions(model, tmp_path):
    path = make_video(tmp_path / "walk.mkv", start=500)
    expected = frames_of(path)
    found = list(predict_video(model, path, batch_size=4))
    assert [frame.time for frame in found] == [(500 + time) / 1000 for time in TIMES]
    for (_, pixels), frame in zip(expected, found):
        assert (frame.image == pixels).all()
    alone = demt.predict(model, expected[5][1])
    assert found[5].prediction.keys() == alone.keys()
    np.testing.assert_allclose(found[5].prediction["depth"], alone["depth"], rtol=1e-4, atol=1e-5)
    assert np.asarray(found[5].prediction.image).tobytes() == expected[5][1].tobytes()
    assert len(list(predict_video(model, path, frames=3, batch_size=2))) == 3


@pytest.mark.parametrize("name", ["walk.mp4", "walk.mkv", "walk.webm", "walk.mov"])
def test_written_videos_have_all_frames_at_their_times(name, model, tmp_path, caplog):
    path = make_video(tmp_path / "source.mkv")
    seen = []
    with caplog.at_level(logging.INFO, logger="demt"):
        summary = predict_video(model, path, tmp_path / "out" / name, on_frame=lambda frame: seen.append(frame.time))
    assert summary.files == (tmp_path / "out" / name,)
    assert summary.frames == len(TIMES) == len(seen)
    assert [time for time, _ in frames_of(summary.files[0])] == pytest.approx(TIMES, abs=1e-6)
    assert f"{len(TIMES)} frames in" in caplog.text
    assert list(summary.files[0].parent.iterdir()) == [summary.files[0]]
    # The first cell of the grid is the frame itself, up to the encoder's losses.
    _, pixels = frames_of(summary.files[0])[6]
    shown = np.abs(pixels[16:48, :64].astype(float) - frames_of(path)[6][1][16:]).mean()
    assert shown < 25, shown


def test_a_video_for_each_task(model, tmp_path):
    path = make_video(tmp_path / "source.mp4")
    summary = predict_video(model, path, tmp_path / "walk.mp4", layout="tasks", smoothing=0.2)
    assert [file.name for file in summary.files] == [f"walk_{task}.mp4" for task in model.tasks]
    for file in summary.files:
        assert [time for time, _ in frames_of(file)] == pytest.approx(TIMES, abs=1e-6)
    # The same call may replace its own files, and nothing else's.
    predict_video(model, path, tmp_path / "walk.mp4", layout="tasks", frames=2)
    assert len(frames_of(summary.files[0])) == 2
    with pytest.raises(FileExistsError, match=r"source\.mp4' would be replaced, but is no file of `demt predict`"):
        predict_video(model, path, path)


def test_rotation_is_that_of_the_file(tmp_path):
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32, 0] = 255
    path = make_video(tmp_path / "phone.mp4", [0, 40], pixels=pixels)
    data = path.read_bytes()
    one, last = (1 << 16).to_bytes(4, "big"), (1 << 30).to_bytes(4, "big")
    upright = one + bytes(12) + one + bytes(12) + last
    # ISO 14496-12, 6.2.2: (x, y) is shown at (a x + c y, b x + d y), so that b = 1 and c = -1 turn x down and y left.
    turned = bytes(4) + one + bytes(4) + (2**32 - (1 << 16)).to_bytes(4, "big") + bytes(16) + last
    place = data.rindex(upright)
    path.write_bytes(data[:place] + turned + data[place + len(upright) :])
    frame = next(read_frames(path))
    assert frame.pixels.shape == (64, 48, 3)
    red = frame.pixels[..., 0] > 128
    assert red[:32, 24:].mean() > 0.9
    assert red[:, :24].mean() < 0.1


@pytest.mark.parametrize(
    ("name", "options"), [("a.mp4", {"movflags": "faststart"}), ("a.mkv", {}), ("a.webm", {}), ("a.avi", {})]
)
def test_cut_off_videos(name, options, model, tmp_path):
    codec = {"a.webm": "libvpx-vp9", "a.avi": "mpeg4"}.get(name, "libx264")
    path = make_video(tmp_path / name, [40 * i for i in range(60)], codec=codec, **options)
    assert len(list(read_frames(path))) == 60
    path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    found = []
    with pytest.raises(VideoCutOffError, match=r"is cut off or damaged: \d+ frames could be decoded$") as error:
        _collect(found, predict_video(model, path, batch_size=7))
    assert 0 < len(found) < 60
    assert f"{len(found)} frames" in str(error.value)
    with pytest.raises(VideoCutOffError, match=rf"{len(found)} frames could be decoded; written: .*out\.mp4"):
        predict_video(model, path, tmp_path / "out.mp4")
    assert len(frames_of(tmp_path / "out.mp4")) == len(found)
    assert {file.name for file in tmp_path.iterdir()} == {name, "out.mp4"}


def _collect(found, frames):
    """One by one, to keep those before an error."""
    for frame in frames:
        found.append(frame)


def test_sources_that_are_no_videos(model, tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").write_bytes(b"")
    whole = make_video(tmp_path / "whole.mp4")
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with av.open(str(tmp_path / "sound.wav"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        file.mux(stream.encode(sound))
        file.mux(stream.encode())
    for name, error, message in [
        ("text.mp4", ValueError, "cannot be read as a video"),
        ("empty.mp4", ValueError, "cannot be read as a video"),
        ("cut.mp4", ValueError, "cannot be read as a video: it is not one, or is cut off before its index"),
        ("list.m3u8", ValueError, "cannot be read as a video"),
        ("sound.wav", ValueError, "has no pictures"),
        ("none.mp4", FileNotFoundError, "No video at"),
        ("/dev/video77", FileNotFoundError, "No camera at '/dev/video77'"),
    ]:
        source = name if name.startswith("/") else tmp_path / name
        with pytest.raises(error, match=message) as caught:
            predict_video(model, source, tmp_path / "out.mp4")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="No camera at '/dev/video77'"):
        next(predict_video(model, 77))
    assert not [file for file in tmp_path.iterdir() if "out" in file.name]


def test_changing_sizes_leave_no_file(model, tmp_path):
    parts = [make_video(tmp_path / f"{i}.ts", [40, 80, 120], size=size) for i, size in enumerate([(64, 48), (96, 48)])]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(
        ValueError, match=r"changes its size at frame [34], from 64 x 48 to 96 x 48 pixels: cut it there"
    ):
        predict_video(model, path, tmp_path / "out.mp4")
    assert not [file for file in tmp_path.iterdir() if "out" in file.name]


def test_errors_on_the_way_leave_no_file(model, tmp_path):
    path = make_video(tmp_path / "source.mp4")

    def stop(frame):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_video(model, path, tmp_path / "out.mp4", layout="tasks", on_frame=stop)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "`batch_size` to be an integer >= 1, got 0"),
        ({"frames": 2.5}, "`frames` to be an integer >= 1, got 2.5"),
        ({"smoothing": -1}, "`smoothing` to be seconds >= 0, got -1"),
        ({"layout": "grid"}, r"`layout` to be one of \('beside', 'tasks'\), got 'grid'"),
        ({"out": "out.gif"}, r"a video to end in .mp4, .mov, .mkv, .webm, got 'out.gif'"),
        ({"source": None}, "`source` to be a video file or the number of a camera, got None"),
        ({"model": torch.nn.Identity()}, "`model` to be a demt model, got Identity"),
    ],
)
def test_wrong_arguments(change, message, model):
    with pytest.raises(ValueError, match=message):
        predict_video(**{"model": model, "source": "walk.mp4", **change})


def test_without_pyav(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'demt\[video\]'"):
        next(predict_video(model, "walk.mp4"))


def test_smoothing_is_the_mean_weighted_by_age_and_certainty():
    """Against the sum over all frames, in float64: weight exp(-age / s) times certainty."""
    tasks = DATASETS["rooms"]
    rng = np.random.default_rng(0)
    times, seconds = [Fraction(t, 1000) for t in TIMES], 0.15
    smoother = Smoother(tasks, seconds)
    past = {name: [] for name in ("semseg", "edge", "normals", "depth")}
    for now, time in enumerate(times):
        logits = {name: rng.normal(size=(1, tasks[name].channels, 4, 5)) * 3 for name in past}
        values = {
            "semseg": np.exp(logits["semseg"]) / np.exp(logits["semseg"]).sum(1, keepdims=True),
            "edge": 1 / (1 + np.exp(-logits["edge"])),
            "normals": logits["normals"] / np.linalg.norm(logits["normals"], axis=1, keepdims=True),
            "depth": logits["depth"],
        }
        sure = {"semseg": values["semseg"].max(1, keepdims=True), "edge": np.abs(2 * values["edge"] - 1)}
        means = smoother(time, {name: torch.from_numpy(maps) for name, maps in values.items()})
        for name, frames in past.items():
            weight = np.maximum(sure.get(name, np.ones((1, 1, 4, 5))), 0.01)
            frames.append((values[name], weight))
            ages = [np.exp(-float(times[now] - times[i]) / seconds) for i in range(now + 1)]
            total = sum(age * weight for age, (_, weight) in zip(ages, frames))
            expected = sum(age * weight * maps for age, (maps, weight) in zip(ages, frames)) / total
            np.testing.assert_allclose(means[name], expected, rtol=1e-9)


def test_smoothing_calms_a_still_scene(model, tmp_path):
    path = make_video(tmp_path / "still.mp4", [40 * i for i in range(12)], crf="10")
    rough = list(predict_video(model, path))
    calm = list(predict_video(model, path, smoothing=0.5))
    assert [frame.time for frame in calm] == [frame.time for frame in rough]
    for name in ("depth", "sal", "edge", "normals"):
        change = [np.abs(np.diff([f.prediction[name] for f in frames[4:]], axis=0)).mean() for frames in (rough, calm)]
        assert change[1] < 0.5 * change[0], (name, change)
    np.testing.assert_allclose(np.linalg.norm(calm[-1].prediction["normals"], axis=0), 1, rtol=1e-5)
    assert calm[-1].prediction["semseg"].dtype == np.uint8
