"""What the web page shows, without a browser; `test_demo_browser` drives the page in one."""

import io
import os
import signal
import socket
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import demt
from demt.data.files import DataError
from demt.inference.demo import build_demo, launch, own_folder, read_photograph
from demt.inference.demo.result import (
    Result,
    depth_task,
    gallery,
    legend_html,
    marked,
    pair,
    sample_points,
    save_archive,
    save_points,
    values_at,
)
from demt.tasks import Task
from tests.inference.demo_server import serving


@pytest.fixture(scope="module")
def result():
    torch.manual_seed(0)
    classes = ("a<b", "c", "d")
    semseg = Task(name="semseg", channels=3, activation="argmax", loss="cross_entropy", metric="miou", classes=classes)
    height, depth = Task(name="height", channels=1, unit="m"), Task(name="depth", channels=1, unit="px")
    tasks = {"semseg": semseg, "height": height, "depth": depth, "normals": 3}
    model = demt.create_model("demt_nano", tasks=tasks).eval()
    return Result.of(model, Image.fromarray(data.astronaut()[::4, ::3]))


def encoded(picture, format="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format=format, **options)
    return buffer.getvalue()


def test_a_photograph_is_upright_and_shrunk():
    pixels = data.astronaut()
    exif = Image.Exif()
    exif[0x0112] = 6
    shown = read_photograph("a.png", encoded(Image.fromarray(pixels), exif=exif), longest=128)
    assert shown.size == (128, 128)
    turned = Image.fromarray(np.rot90(pixels, -1)).resize((128, 128), Image.Resampling.LANCZOS)
    assert np.abs(np.array(shown).astype(int) - np.array(turned)).mean() < 2
    small = read_photograph("a.png", encoded(Image.fromarray(pixels[:40, :60])))
    assert (np.array(small) == pixels[:40, :60]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_pictures_of_every_kind_are_shrunk_by_their_mean(mode):
    stripes = np.zeros((64, 400), np.uint8)
    stripes[:, ::2] = 255
    picture = Image.fromarray(stripes.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(stripes)
    shown = read_photograph("a.png", encoded(picture if mode == "I;16" else picture.convert(mode)), longest=200)
    values = demt.data.images.read_image(shown)
    assert tuple(values.shape) == (3, 32, 200)
    assert (values[:, :, 5:-5] - 0.5).abs().max() < 0.1


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"This is no picture.", r"'holiday.jpg' cannot be read as an image: it is not one of PNG, JPEG"),
        (b"", r"'holiday.jpg' cannot be read as an image"),
        (encoded(Image.fromarray(data.astronaut()), "JPEG")[:5000], r"'holiday.jpg' cannot be read.*truncated"),
        (encoded(Image.new("1", (12000, 12000))), r"'holiday.jpg' has 12000 x 12000 pixels; .* at most 134217728"),
    ],
    ids=["text", "empty", "cut", "large"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_photograph_names_the_file_alone(contents, message):
    with pytest.raises(DataError, match=f"^{message}"):
        read_photograph("holiday.jpg", contents)


def test_values_are_those_of_the_pixel(result):
    whole = result.prediction
    x, y = 17, 90
    rows = dict(values_at(whole, (x, y)))
    ids, sure = whole["semseg"][y, x], whole.confidence["semseg"][y, x]
    name = whole.tasks["semseg"].classes[ids]
    assert rows["Semantic segmentation"] == f"{name} ({100 * sure:.0f} % sure)"
    assert rows["height (m)"] == f"{whole['height'][y, x]:.3g} m"
    assert rows["Surface normals"] == "({:.2f}, {:.2f}, {:.2f})".format(*whole["normals"][:, y, x])
    for pixel in ((-1, 0), (0, whole.image.height), (whole.image.width, 0)):
        with pytest.raises(ValueError, match="in a photograph of 171 x 128"):
            values_at(whole, pixel)


def test_pictures_are_of_the_chosen_tasks(result):
    some = result.of_tasks(["normals", "semseg", "unknown"])
    assert list(some) == ["semseg", "normals"]
    assert list(some.confidence) == ["semseg"]
    assert [caption for _, caption in gallery(some)] == ["Semantic segmentation", "Surface normals"]
    photograph, over = pair(some, "normals")
    assert photograph.size == over.size == (171, 128)
    expected = (some["normals"].transpose(1, 2, 0) + 1) * 127.5
    np.testing.assert_allclose(np.array(over), expected, atol=0.51)
    legend = legend_html(some, "semseg")
    assert "a<b" not in legend
    assert ("a&lt;b" in legend) == (0 in some["semseg"])
    changed = (np.array(marked(photograph, (50, 60))) != np.array(photograph)).any(-1)
    assert changed[60, 50]
    assert not changed[:48].any()
    assert len(sample_points(result, list(some), (50, 60))) == 2
    assert not result.of_tasks([])


def test_points_come_from_a_depth_in_metres(result, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    assert depth_task(result.prediction) == "height"
    assert depth_task(result.of_tasks(["depth", "semseg"])) is None
    save_points(result.prediction, tmp_path / "a.glb", 70)
    (cloud,) = trimesh.load(tmp_path / "a.glb").geometry.values()
    assert len(cloud.vertices) == (result.prediction["height"] > 0).sum()
    with pytest.raises(ValueError, match="need a task of depth"):
        save_points(result.of_tasks(["semseg"]), tmp_path / "b.glb", 70)
    with pytest.raises(ValueError, match="`fov` to be degrees between 0 and 180, got 180"):
        save_points(result.prediction, tmp_path / "b.glb", 180)
    assert [file.name for file in tmp_path.iterdir()] == ["a.glb"]


def test_the_archive_holds_everything(result, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    save_archive(result.prediction, tmp_path / "a.zip", 60)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        files = {name.removeprefix("photograph"): archive.read(name) for name in archive.namelist()}
    pictures = {f"_{name}.png" for name in result.prediction}
    deep = {"_height.16bit.png", "_normals.16bit.png"}
    assert set(files) == {".png", ".npz", "_panel.png", "_points.ply", *pictures, *deep}
    assert (np.array(Image.open(io.BytesIO(files[".png"]))) == np.array(result.prediction.image)).all()
    with np.load(io.BytesIO(files[".npz"])) as arrays:
        assert all((arrays[name] == values).all() for name, values in result.prediction.items())
    cloud = trimesh.load(io.BytesIO(files["_points.ply"]), file_type="ply")
    expected = result.prediction.to_point_cloud(fov=60, depth="height").points
    np.testing.assert_allclose(cloud.vertices, expected, rtol=1e-5)
    save_archive(result.of_tasks(["semseg"]), tmp_path / "b.zip", 60)
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert len(archive.namelist()) == 4
    with pytest.raises(ValueError, match="choose a task"):
        save_archive(result.of_tasks([]), tmp_path / "c.zip", 60)


def test_without_gradio_the_error_says_what_to_install(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"pip install 'demt\[demo\]'"):
        build_demo({"a": result.model})


@pytest.fixture(scope="module")
def page(result, tmp_path_factory):
    """A page that is served, and addresses other than this machine's that its start connected to."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'demt[demo]'")
    elsewhere, connect = [], socket.socket.connect

    def watched(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            elsewhere.append(address)
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        patch.setattr(socket.socket, "connect", watched)
        # The variable that opens other gradio pages to everyone.
        patch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
        served = launch({"one": result.model, "two": result.model}, block=False, max_upload=2**20)
        yield served, elsewhere
        served.close()


@pytest.fixture
def client(page):
    from gradio_client import Client

    return Client(page[0].local_url, verbose=False)


def test_the_page_listens_here_alone(page):
    served, elsewhere = page
    assert served.server_name == "127.0.0.1"
    assert not served.share
    assert not served.analytics_enabled
    assert elsewhere == []


def test_the_page_predicts_what_is_uploaded(client, result, tmp_path):
    from gradio_client import handle_file

    result.image.save(tmp_path / "a.png")
    said = client.predict(handle_file(tmp_path / "a.png"), "two", api_name="/predict")
    assert said.startswith("171 x 128 pixels, ")
    shown = client.predict(["semseg", "normals"], None, api_name="/show")
    assert [entry["caption"] for entry in shown[3]] == ["Semantic segmentation", "Surface normals"]
    file = client.predict(["semseg", "normals"], 60, api_name="/pack")
    file = file["value"] if isinstance(file, dict) else file
    with zipfile.ZipFile(file) as archive:
        assert "photograph_normals.png" in archive.namelist()


def test_the_page_refuses_what_it_should(client, tmp_path):
    from gradio_client import handle_file

    (tmp_path / "text.jpg").write_text("This is no picture.")
    said = client.predict(handle_file(tmp_path / "text.jpg"), "one", api_name="/predict")
    assert said == "'text.jpg' cannot be read as an image: it is not one of PNG, JPEG, TIFF, BMP, WEBP, AVIF"
    Image.fromarray(data.astronaut()).save(tmp_path / "a.png")
    said = client.predict(handle_file(tmp_path / "a.png"), str(tmp_path), api_name="/predict")
    assert said.startswith("Expected the name of a model of ['one', 'two'], got")
    (tmp_path / "large.jpg").write_bytes(bytes(2**20 + 1))
    with pytest.raises(Exception, match="exceed"):
        client.predict(handle_file(tmp_path / "large.jpg"), "one", api_name="/predict")


def test_nobody_reads_the_server_s_files(page, result, tmp_path):
    """What the client would upload by itself, said by hand: a path that was never uploaded."""
    import httpx

    result.image.save(tmp_path / "a.png")
    given = {"path": str(tmp_path / "a.png"), "meta": {"_type": "gradio.FileData"}}
    url = f"{page[0].local_url}gradio_api/call/predict"
    event = httpx.post(url, json={"data": [given, "one"]}).json()["event_id"]
    answer = httpx.get(f"{url}/{event}", timeout=60).text
    assert "event: error" in answer
    assert "pixels" not in answer


def test_two_visitors_see_their_own(page, result, tmp_path):
    from gradio_client import Client, handle_file

    one, two = (Client(page[0].local_url, verbose=False) for _ in range(2))
    sizes = {one: (60, 80), two: (90, 50)}
    for visitor, size in sizes.items():
        result.image.resize(size).save(tmp_path / "a.png")
        visitor.predict(handle_file(tmp_path / "a.png"), "one", api_name="/predict")
    for visitor, size in sizes.items():
        shown = visitor.predict(["semseg"], None, api_name="/show")
        assert Image.open(shown[4]).size == size


def test_a_service_that_is_stopped_leaves_no_photographs(result, tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'demt[demo]'")
    from gradio_client import Client, handle_file

    result.image.save(tmp_path / "a.png")
    (tmp_path / "gradio").mkdir()
    (tmp_path / "gradio/mine.txt").touch()
    command = ("-m", "demt", "demo", "--model", "demt_nano.rooms")
    with serving(tmp_path, *command, stop=signal.SIGTERM) as (address, process):
        visitor = Client(address, verbose=False)
        said = visitor.predict(handle_file(tmp_path / "a.png"), "demt_nano.rooms", api_name="/predict")
        assert said.startswith("171 x 128 pixels, ")
        kept = {file.suffix for file in (tmp_path / "gradio").rglob("*") if file.is_file()}
        assert ".png" in kept
    assert process.returncode == 0
    assert [file.name for file in (tmp_path / "gradio").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGHUP])
def test_the_folder_of_a_page_is_its_own(stop, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "new"))
    before = signal.getsignal(stop)
    with pytest.raises(KeyboardInterrupt), own_folder() as folder:  # noqa: PT012
        assert folder.parent == tmp_path / "new"
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        (folder / "a.png").touch()
        signal.raise_signal(stop)
    assert not list((tmp_path / "new").iterdir())
    assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path / "new")
    assert signal.getsignal(stop) is before
    monkeypatch.delenv("GRADIO_TEMP_DIR")
    with own_folder() as folder:
        assert folder.parent == Path(tempfile.gettempdir())
    assert not folder.exists()
    assert "GRADIO_TEMP_DIR" not in os.environ
