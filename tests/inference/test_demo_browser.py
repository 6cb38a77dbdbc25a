"""The web page in a browser, from a dropped photograph to the download: `demt demo` as people start it."""

import contextlib
import importlib.util
import io
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from skimage import data

from tests.inference import demo_server
from tests.inference.demo_server import limited, serving

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
LACKING = [name for name in ("gradio", "playwright", "trimesh") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]
#: Of a loaded machine; in milliseconds.
PATIENCE = 1000 * demo_server.PATIENCE
#: Of a whole test, in seconds.
LIMIT = 1200
FILE = "#photo input[type=file]"
READY = "#download:not([disabled])"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    graphics = ["--enable-unsafe-swiftshader", "--use-angle=swiftshader", "--ignore-gpu-blocklist"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *camera, *graphics], timeout=PATIENCE
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    Image.fromarray(data.astronaut()).save(folder / "astronaut.jpg")
    Image.fromarray(data.chelsea()).save(folder / "cat.png")
    noise = np.random.default_rng(0).integers(-12, 12, (6144, 8192, 1), dtype=np.int16)
    large = np.array(Image.fromarray(data.chelsea()).resize((8192, 6144))) + noise
    Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(folder / "large.jpg", quality=90)
    (folder / "text.jpg").write_text("This is no picture.\n")
    (folder / "long.jpg").write_bytes((folder / "large.jpg").read_bytes() + bytes(2**25))
    return folder


@pytest.fixture(scope="module")
def server(folder):
    command = ("-m", "demt", "demo", "--model", "demt_lite.photos", "--model", "multitask_baseline_nano.rooms")
    with serving(folder, *command) as served:
        yield served


@pytest.fixture(autouse=True)
def _limited():
    with limited(LIMIT):
        yield


@pytest.fixture
def tab(browser, server):
    """A page of its own, with what it asks for."""
    context = browser.new_context(
        accept_downloads=True, permissions=["camera"], viewport={"width": 1280, "height": 900}
    )
    context.set_default_timeout(PATIENCE)
    yield opened(context, server[0])
    context.close()


def opened(context, address):
    page = context.new_page()
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    page.wait_for_selector(FILE, state="attached")
    return page


def wait_for_words(page, words):
    page.wait_for_function("words => document.querySelector('#said')?.innerText.includes(words)", arg=words)


def memory(process):
    """The most memory that a process has had, in MiB, and what it has now."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return tuple(int(re.search(rf"{key}:\s+(\d+)", text)[1]) // 1024 for key in ("VmHWM", "VmRSS"))


def test_from_a_photograph_to_the_download(tab, folder):
    start = time.monotonic()
    tab.set_input_files(FILE, folder / "astronaut.jpg")
    tab.wait_for_selector("#slider img")
    print(f"drop to result: {time.monotonic() - start:.1f} s")
    tab.wait_for_selector(READY)
    print(f"drop to download: {time.monotonic() - start:.1f} s")
    assert tab.locator("#pictures img").count() == 6
    wait_for_words(tab, "512 x 512 pixels")

    # One task less, another one over the photograph.
    tab.click("#tasks label:has-text('Human parts')")
    tab.wait_for_function("document.querySelectorAll('#pictures img').length == 5")
    before = tab.locator("#slider img").last.get_attribute("src")
    tab.click("#over label:has-text('Depth')")
    tab.wait_for_function("src => [...document.querySelectorAll('#slider img')].at(-1).src != src", arg=before)

    tab.get_by_role("tab", name="One pixel").click()
    picture = tab.wait_for_selector("#clickable img")
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
    tab.wait_for_function("document.querySelectorAll('#points img').length == 5")
    values = tab.inner_text("#values")
    assert re.search(r"Depth \(m\)\s+\d+(\.\d+)? m", values), values
    # Half way across, a quarter down: her face.
    assert "person" in values

    tab.get_by_role("tab", name="Points in space").click()
    tab.click("#draw")
    canvas = tab.wait_for_selector("#cloud canvas")
    deadline = time.monotonic() + PATIENCE / 1000
    while colours(canvas.screenshot()) < 500:
        assert time.monotonic() < deadline, "no points were drawn"
        tab.wait_for_timeout(1000)
    front = canvas.screenshot()
    box = canvas.bounding_box()
    tab.mouse.move(box["x"] + 200, box["y"] + 200)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 320, box["y"] + 220, steps=5)
    tab.mouse.up()
    tab.wait_for_timeout(3000)
    assert canvas.screenshot() != front

    tab.wait_for_selector(READY)
    with tab.expect_download() as download:
        tab.click("#download")
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
    assert {"photograph.npz", "photograph_depth.16bit.png", "photograph_points.ply", "photograph_panel.png"} <= names
    assert "photograph_human_parts.png" not in names
    elsewhere = [url for url in tab.asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
    assert elsewhere == []


def colours(screenshot):
    """How many colours there are in a picture."""
    return len(np.unique(np.array(Image.open(io.BytesIO(screenshot)).convert("RGB")).reshape(-1, 3), axis=0))


def test_another_model_has_nothing_to_look_into(tab, folder):
    tab.set_input_files(FILE, folder / "cat.png")
    tab.wait_for_selector(READY)
    tab.click("#model input")
    tab.get_by_role("option", name="multitask_baseline_nano.rooms").click()
    tab.wait_for_function("document.querySelector('#said').innerText.endsWith('Trained on synthetic rooms.')")
    tab.get_by_role("tab", name="One pixel").click()
    tab.wait_for_selector("#clickable img")
    tab.click("#clickable img")
    tab.wait_for_selector(".toast-body")
    assert "the baseline has neither" in tab.inner_text(".toast-body")
    assert "Depth (m)" in tab.inner_text("#values")


def test_a_picture_of_50_megapixels_is_shrunk(tab, folder, server):
    before = memory(server[1])
    start = time.monotonic()
    tab.set_input_files(FILE, folder / "large.jpg")
    tab.wait_for_selector("#slider img")
    print(f"{(folder / 'large.jpg').stat().st_size / 2**20:.1f} MiB: {time.monotonic() - start:.1f} s")
    tab.wait_for_selector(READY)
    wait_for_words(tab, "768 x 576 pixels")
    after = memory(server[1])
    print(f"memory: {before[1]} MiB before, at most {after[0]} MiB")
    # Its pixels take 144 MiB; as floating point, and in several copies, they would take gigabytes.
    assert after[0] - before[1] < 700


def test_a_text_file_and_a_file_too_large_are_refused(tab, folder):
    tab.set_input_files(FILE, folder / "text.jpg")
    wait_for_words(tab, "'text.jpg' cannot be read as an image: it is not one of PNG, JPEG")
    assert tab.locator("#pictures img").count() == 0
    assert tab.is_disabled("#download")
    tab.click("#photo button[aria-label='Remove Image']")
    wait_for_words(tab, "Drop a photograph")
    tab.set_input_files(FILE, folder / "long.jpg")
    tab.wait_for_selector(".toast-body.error")
    assert "exceed the maximum allowed size of 32" in tab.inner_text(".toast-body.error")


def test_the_camera_takes_a_photograph(tab):
    tab.click("#photo [aria-label='Capture from camera']")
    tab.click("#photo .access-wrap, #photo [title='grant webcam access']")
    # Before its first frame a camera has nothing to take.
    tab.wait_for_function("document.querySelector('#photo video')?.videoWidth > 0")
    tab.click("#photo [aria-label='capture photo']")
    tab.wait_for_selector(READY)
    assert tab.locator("#pictures img").count() == 6


def test_two_tabs_at_once_have_their_own_results(tab, folder, server):
    second = opened(tab.context, server[0])
    tab.set_input_files(FILE, folder / "astronaut.jpg")
    second.set_input_files(FILE, folder / "cat.png")
    for page, size in ((tab, "512 x 512"), (second, "451 x 300")):
        page.wait_for_selector(READY)
        wait_for_words(page, size)
        width = page.evaluate("document.querySelector('#slider img').naturalWidth")
        assert width == int(size.split()[0])


def test_a_lost_connection(tab, folder):
    tab.set_input_files(FILE, folder / "cat.png")
    tab.wait_for_selector(READY)
    # Nothing was asked meanwhile: all goes on.
    tab.context.set_offline(True)
    tab.wait_for_timeout(3000)
    tab.context.set_offline(False)
    before = tab.locator("#slider img").last.get_attribute("src")
    tab.click("#over label:has-text('Depth')")
    tab.wait_for_function("src => [...document.querySelectorAll('#slider img')].at(-1).src != src", arg=before)
    # Something was: the page says so, and begins afresh when the server is there again.
    tab.context.set_offline(True)
    tab.click("#over label:has-text('Saliency')")
    tab.wait_for_selector(".toast-body.error")
    assert "Connection to the server was lost" in tab.inner_text(".toast-body.error")
    tab.context.set_offline(False)
    wait_for_words(tab, "Drop a photograph")
    tab.wait_for_selector(FILE, state="attached")
    tab.set_input_files(FILE, folder / "cat.png")
    tab.wait_for_selector(READY)


def test_the_end_leaves_no_photographs(browser, folder, tmp_path):
    with serving(tmp_path, "-m", "demt", "demo") as (address, _):
        context = browser.new_context()
        context.set_default_timeout(PATIENCE)
        page = opened(context, address)
        page.set_input_files(FILE, folder / "cat.png")
        page.wait_for_selector(READY)
        assert [file for file in (tmp_path / "gradio").rglob("*") if file.is_file()]
        context.close()
    assert not [file for file in (tmp_path / "gradio").rglob("*") if file.is_file()]


def test_the_folder_of_a_space_runs(browser, folder, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "demt", "demo", "--space", str(tmp_path / "space")],
        check=True,
        cwd=demo_server.ROOT,
        timeout=PATIENCE / 1000,
    )
    with serving(tmp_path, "space/app.py", port=free_port()) as (address, _):
        context = browser.new_context()
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        deadline = time.monotonic() + PATIENCE / 1000
        while time.monotonic() < deadline:
            with contextlib.suppress(Exception):
                page.goto(address)
                break
            time.sleep(1)
        page.set_input_files(FILE, folder / "cat.png")
        page.wait_for_selector(READY)
        assert page.locator("#pictures img").count() == 6
        context.close()


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_browser_that_hangs_fails_a_test(browser):
    """The last test: the browser does not outlive it."""
    page = browser.new_page()
    stopped = [process for process in psutil.Process().children(recursive=True) if "renderer" in str(process.cmdline())]
    for process in stopped:
        process.suspend()
    start = time.monotonic()
    with limited(5), pytest.raises(Exception, match="has been closed"):
        page.evaluate("1 + 1")
    assert time.monotonic() - start < 60
