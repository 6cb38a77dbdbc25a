"""The page that runs a model in a browser: headless Chromium computes what onnxruntime does, and draws as demt.viz.

Needs playwright, Chromium (DEMT_CHROMIUM, or one on the path) and the folder dist of npm's onnxruntime-web
(DEMT_ONNXRUNTIME_WEB, or that in node_modules): npm install onnxruntime-web@1.30.0
"""

import base64
import functools
import json
import os
import shutil
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import demt
from demt.cli import app
from demt.export import browser
from demt.export.browser import export_browser
from demt.viz import RAMP, legend, task_picture
from tests.conftest import needs_export

MODEL = "demt_lite.photos"
RUNTIME = Path(
    os.environ.get("DEMT_ONNXRUNTIME_WEB") or Path(__file__).parents[2] / "node_modules/onnxruntime-web/dist"
)
CHROMIUM = os.environ.get("DEMT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SAID = "document.getElementById('status').textContent"
WRONG = "document.getElementById('error').textContent"
# What the page's own function gives for the chosen file, as JSON; arrays as base64 of float32.
RUN = """async () => {
  const packed = (values) => {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    let text = "";
    for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
    return btoa(text);
  };
  const { run } = await import("./page.js");
  const { input, width, height, logits, milliseconds } = await run(document.getElementById("file").files[0]);
  const tasks = Object.fromEntries(Object.entries(logits).map(([name, values]) => [name, packed(values)]));
  return { input: packed(input), width, height, tasks, milliseconds };
}"""


class Quiet(SimpleHTTPRequestHandler):
    """Files of a folder, and no line for each."""

    def log_message(self, *arguments):
        pass


@contextmanager
def served(folder):
    """The address of a server of these files, on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    if not (RUNTIME / browser.WASM).is_file():
        pytest.skip(f"needs npm's onnxruntime-web {browser.VERSION}; set DEMT_ONNXRUNTIME_WEB to its folder dist")
    with sync_api.sync_playwright() as playwright:
        # Containers run as root, which has no sandbox.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def written(chromium, tmp_path_factory):
    """The page that the documentation shows, with onnxruntime-web beside it."""
    folder = tmp_path_factory.mktemp("browser") / "page"
    result = CliRunner().invoke(app, ["browser", MODEL, str(folder), "--runtime", str(RUNTIME)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def page(chromium, written):
    with served(written) as address:
        opened = chromium.new_page(viewport={"width": 1100, "height": 860})
        opened.goto(address)
        until(opened, f"{SAID} === 'Ready.'")
        yield opened
        opened.close()


def until(page, condition):
    """Wait for a condition, or for an error that the page says."""
    page.wait_for_function(f"{condition} || {WRONG}", timeout=300_000)
    assert page.evaluate(condition), page.evaluate(WRONG)


def choose(page, file):
    page.evaluate("document.getElementById('status').textContent = ''")
    page.set_input_files("#file", str(file))
    until(page, f"{SAID}.startsWith({json.dumps(Path(file).name)})")


def unpacked(text, *shape):
    return np.frombuffer(base64.b64decode(text), np.float32).reshape(*shape)


@pytest.fixture(scope="module")
def coffee(tmp_path_factory):
    """A photograph of 600 x 400 pixels, which the network sees at 384 x 256."""
    file = tmp_path_factory.mktemp("pictures") / "coffee.png"
    Image.fromarray(pytest.importorskip("skimage").data.coffee()).save(file)
    return file


@pytest.mark.slow
@needs_export
def test_the_page_computes_and_draws_what_python_does(page, written, coffee):
    import onnxruntime

    model = demt.create_model(MODEL).eval()
    choose(page, coffee)
    found = page.evaluate(RUN)
    height, width = found["height"], found["width"]
    images = demt.preprocess(model, coffee).numpy()
    assert images.shape == (1, 3, height, width) == (1, 3, 256, 384)
    np.testing.assert_allclose(unpacked(found["input"], 1, 3, height, width), images, atol=1e-5)

    session = onnxruntime.InferenceSession(str(written / "model.onnx"), providers=["CPUExecutionProvider"])
    expected = dict(zip([each.name for each in session.get_outputs()], session.run(None, {"images": images})))
    assert list(found["tasks"]) == list(expected) == list(model.tasks)
    for name, task in model.tasks.items():
        logits = unpacked(found["tasks"][name], *expected[name].shape)
        np.testing.assert_allclose(logits, expected[name], atol=1e-2, err_msg=name)

        page.check(f"input[value={name}]")
        drawn = page.evaluate("""() => {
          const map = document.getElementById("map");
          return [map.width, map.height, [...map.getContext("2d").getImageData(0, 0, map.width, map.height).data]];
        }""")
        prediction = task.predict(torch.from_numpy(logits.copy()))[0].numpy()
        picture = np.asarray(task_picture(task, prediction).convert("RGB")).astype(int)
        shown = np.reshape(drawn[2], (drawn[1], drawn[0], 4))
        assert (shown[..., 3] == 255).all()
        assert np.abs(shown[..., :3] - picture).max() <= 1, name
        words = page.inner_text("#legend").split("\n")
        assert [word.strip() for word in words] == [text for _, text in legend(task, prediction)]
    assert 0 < found["milliseconds"] < 300_000


@pytest.mark.slow
@needs_export
def test_pictures_are_dropped_and_turned_upright_and_transparency_is_white(page, tmp_path):
    model = demt.create_model(MODEL, pretrained=False)
    rng = np.random.default_rng(0)
    values = np.kron(rng.integers(0, 256, (7, 5, 4)), np.ones((16, 16, 1))).astype(np.uint8)
    upright = Image.Exif()
    upright[0x0112] = 6
    Image.fromarray(values[..., :3]).save(tmp_path / "turned.jpg", exif=upright, quality=95)
    Image.fromarray(values, "RGBA").save(tmp_path / "clear.png")
    # The decoders of JPEG are two; those of transparency round premultiplied values.
    for name, size in {"turned.jpg": (80, 112), "clear.png": (112, 80)}.items():
        contents = base64.b64encode((tmp_path / name).read_bytes()).decode()
        page.evaluate(
            """([name, contents]) => {
              const data = new DataTransfer();
              data.items.add(new File([Uint8Array.from(atob(contents), (c) => c.charCodeAt(0))], name));
              document.getElementById("file").files = data.files;
              window.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
            }""",
            [name, contents],
        )
        until(page, f"{SAID}.startsWith({json.dumps(name)})")
        found = page.evaluate(RUN)
        assert (found["height"], found["width"]) == size
        images = demt.preprocess(model, tmp_path / name).numpy()
        np.testing.assert_allclose(unpacked(found["input"], *images.shape), images, atol=0.05)


@pytest.mark.slow
@needs_export
def test_what_is_no_picture_gives_one_line(page, tmp_path):
    (tmp_path / "notes.jpg").write_text("Not a picture")
    Image.new("1", (16384, 8193)).save(tmp_path / "huge.png")
    whole = (Path(__file__).parents[2] / "docs/photo.jpg").read_bytes()
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "half.png").write_bytes(whole[:200])
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    for name, line in {
        "notes.jpg": "notes.jpg is no picture that this browser can read; use JPEG, PNG or WebP",
        "empty.png": "empty.png is no picture that this browser can read; use JPEG, PNG or WebP",
        "half.png": "half.png is no picture that this browser can read; use JPEG, PNG or WebP",
        "cut.jpg": "cut.jpg (512 x 512 pixels) cannot be decoded: it is damaged, or too large for this browser",
        "huge.png": "huge.png has 16384 x 8193 pixels; use a picture of at most 134217728 pixels",
    }.items():
        page.set_input_files("#file", str(tmp_path / name))
        page.wait_for_function(f"{WRONG}.startsWith({json.dumps(name)})", timeout=60_000)
        assert (page.evaluate(WRONG), page.evaluate(SAID)) == (line, "")
    page.evaluate("window.dispatchEvent(new DragEvent('drop', { dataTransfer: new DataTransfer() }))")
    page.wait_for_function(f"{WRONG} === 'That is no file; drop a picture from this computer'", timeout=60_000)
    choose(page, Path(__file__).parents[2] / "docs/photo.jpg")
    assert page.evaluate(WRONG) == ""


@pytest.mark.slow
@needs_export
def test_onnxruntime_from_the_web_is_that_of_its_checksum(chromium, written, tmp_path):
    """The public page loads the runtime from elsewhere; here its requests are answered from npm's files."""
    folder = tmp_path / "page"
    shutil.copytree(written, folder)
    for file in browser.INTEGRITY:
        (folder / file).unlink()
    for file in ("index.html", "model.json"):
        text = (folder / file).read_text(encoding="utf-8")
        for name in browser.INTEGRITY:
            text = text.replace(f"./{name}", f"{browser.ADDRESS}/{name}")
        (folder / file).write_text(text, encoding="utf-8")

    def answer(route, damage):
        contents = (RUNTIME / route.request.url.rpartition("/")[2]).read_bytes()
        kind = "text/javascript" if route.request.url.endswith(".mjs") else "application/wasm"
        headers = {"Access-Control-Allow-Origin": "*", "Content-Type": kind}
        damaged = damage is not None and route.request.url.endswith(damage)
        route.fulfill(body=contents + b" " * damaged, headers=headers)

    for damage, line in {None: "", ".mjs": "The model cannot be loaded", ".wasm": "The model cannot be loaded"}.items():
        with served(folder) as address:
            opened = chromium.new_page()
            opened.route(f"{browser.ADDRESS}/*", functools.partial(answer, damage=damage))
            opened.goto(address)
            opened.wait_for_function(f"{SAID} === 'Ready.' || {WRONG}", timeout=300_000)
            assert opened.evaluate(WRONG).startswith(line)
            assert (opened.evaluate(SAID) == "Ready.") == (damage is None)
            opened.close()


def test_the_page_is_told_how_tasks_are_drawn():
    model = demt.create_model("demt_nano", tasks={"semseg": 5, "depth": 1, "human_parts": 7})
    about = browser._about(model)
    semseg, depth, parts = about["tasks"]
    assert semseg["palette"] == demt.classes.voc_palette(5)
    assert parts["palette"] == model.tasks["human_parts"].palette
    assert (depth["palette"], depth["title"], depth["unit"]) == (None, "Depth (m)", "m")
    assert about["ramp"] == RAMP.tolist()
    assert about["max_size"] == (model.pretrained_cfg.max_size or max(model.pretrained_cfg.input_size[1:]))


def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path):
    grey = demt.create_model("demt_nano", tasks={"depth": 1}, in_chans=1)
    with pytest.raises(ValueError, match="pictures with 3 channels, got one of 1"):
        export_browser(grey, tmp_path / "page")
    colour = demt.create_model("demt_nano", tasks={"depth": 1})
    with pytest.raises(FileNotFoundError, match=f"npm install onnxruntime-web@{browser.VERSION}"):
        export_browser(colour, tmp_path / "page", runtime=tmp_path)
    for file in browser.INTEGRITY:
        (tmp_path / file).write_bytes(b"another")
    with pytest.raises(ValueError, match="got another release's"):
        export_browser(colour, tmp_path / "page", runtime=tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/index.html").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        export_browser(colour, tmp_path / "full")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["full", *browser.INTEGRITY])
