"""`demt data fetch` against a server on loopback: resumed, of the right size, whole or not at all."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time

import pytest
from typer.testing import CliRunner

from demt.cli import app
from demt.released.archives import ARCHIVES, Archive, find_archive
from tests.data import writers
from tests.drive_stand_in import Shared, StandIn
from tests.file_server import FileServer

pytest.importorskip("requests")


def packed(root, compression="w:gz"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=compression) as archive:
        archive.add(root, "NYUDv2")
    return file.getvalue()


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """An archive of a small NYUD-v2: six whole samples, and so the doctor misses the others."""
    root = tmp_path_factory.mktemp("nyud")
    for split, ids in (("train", ("0001", "0002", "0003")), ("val", ("0004", "0005", "0006"))):
        writers.nyud(root, "atrc", ids, split)
    return packed(root)


@pytest.fixture
def server(content):
    with FileServer({"/NYUDv2.tar.gz": content}) as server:
        yield server


@pytest.fixture
def fetch(server, tmp_path):
    def run(*options, url=None, target=tmp_path / "data"):
        url = url or server.url("/NYUDv2.tar.gz")
        place = ["--url", url, "--cache-dir", tmp_path / "cache", "--workers", 0, "--sample", 1]
        result = CliRunner().invoke(app, [str(each) for each in ["data", "fetch", "nyud", target, *place, *options]])
        result.text = " ".join(result.output.split())
        return result

    return run


def left(tmp_path):
    """What there is, but for locks."""
    return sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


def is_one_line(result, *words):
    """Exit code 1 and, below the line that says what is fetched, one line."""
    assert result.exit_code == 1
    lines = result.output.strip().splitlines()
    assert len(lines) == 2, result.output
    assert lines[1].startswith("Error: ")
    assert all(word in lines[1] for word in words), lines[1]


def test_an_archive_becomes_a_checked_folder(fetch, tmp_path, content):
    result = fetch("--size", len(content), "--sha256", hashlib.sha256(content).hexdigest())
    assert "NYUD-v2, layout atrc" in result.text
    assert "train 3 795 1 0 val 3 654 1 0" in result.text  # samples, published, opened, whole: these are too small
    assert result.exit_code == 1  # the doctor counts: 3 of 795 samples
    files = left(tmp_path)
    assert "data/NYUDv2/depth/0004.npy" in files
    assert not any(file.startswith("cache") for file in files)
    again = fetch()
    is_one_line(again, "exists and is not empty")


def test_a_broken_connection_is_resumed(fetch, server, tmp_path, content):
    server.cuts = [1000, 2000]
    assert "layout atrc" in fetch("--keep").text
    assert server.ranges == [None, "bytes=1000-", "bytes=3000-"]
    (kept,) = (tmp_path / "cache").glob("*.tar.gz")
    assert kept.read_bytes() == content
    assert len(server.ranges) == 3
    (tmp_path / "data").rename(tmp_path / "first")
    assert "layout atrc" in fetch().text
    assert len(server.ranges) == 3


def test_an_interrupted_run_goes_on_where_it_was(fetch, server, tmp_path, content):
    server.cuts = [5000, 0]
    is_one_line(fetch(), "did not complete", "5,000 bytes so far", "resumes where it stopped")
    assert not (tmp_path / "data").exists()
    assert "layout atrc" in fetch("--keep").text
    assert server.ranges == [None, "bytes=5000-", "bytes=5000-"]
    assert next((tmp_path / "cache").glob("*.tar.gz")).read_bytes() == content


def test_a_changed_file_is_not_glued_to_the_old_part(fetch, server, tmp_path, content):
    server.cuts = [5000, 0]
    assert fetch().exit_code == 1
    other = server.files["/NYUDv2.tar.gz"] = content + bytes(600)
    fetch("--keep")
    assert next((tmp_path / "cache").glob("*.tar.gz")).read_bytes() == other
    server.cuts, server.tags = [5000, 0], False
    assert fetch("--force", target=tmp_path / "b").exit_code == 1
    fetch("--keep", target=tmp_path / "c")
    assert server.ranges[-1] is None
    assert next((tmp_path / "cache").glob("*.tar.gz")).read_bytes() == other


def test_another_size_or_checksum_is_one_line_and_leaves_nothing(fetch, server, tmp_path, content):
    sizes = f"{len(content):,} bytes", "its table says 12,345"
    is_one_line(fetch("--size", 12345), *sizes, "nothing of it was kept")
    assert left(tmp_path) == []
    is_one_line(fetch("--sha256", "0" * 64), "SHA-256", "its table says 000")
    assert left(tmp_path) == []
    server.lengths = False
    is_one_line(fetch("--size", 1000), "has more than 1,000 bytes", "nothing of it was kept")
    is_one_line(fetch("--size", len(content) + 1), sizes[0], "nothing of it was kept")
    assert left(tmp_path) == []
    mine = tmp_path / "mine.tar.gz"
    mine.write_bytes(content)
    is_one_line(fetch("--size", 12345, "--file", mine), *sizes)
    assert left(tmp_path) == ["mine.tar.gz"]
    assert "layout atrc" in fetch("--file", mine).text
    assert mine.read_bytes() == content


def test_what_is_no_archive_or_could_do_harm(fetch, server, tmp_path):
    is_one_line(fetch(url=server.url("/gone.tar.gz")), "404", "--link")
    server.files["/page"], server.headers = b"<html>sign in</html>", {"Content-Type": "text/html"}
    is_one_line(fetch(url=server.url("/page")), "a web page, not a file", "--file")
    server.headers = {}
    server.files["/NYUDv2.tar.gz"] = b"no archive"
    is_one_line(fetch("--force"), "is not a .zip, .tar or .tar.gz file")
    evil = io.BytesIO()
    with tarfile.open(fileobj=evil, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../outside"), io.BytesIO())
    server.files["/NYUDv2.tar.gz"] = evil.getvalue()
    is_one_line(fetch("--force"), "a path that leads out of the folder")
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "outside").exists()
    is_one_line(fetch(url="http://127.0.0.1:9/NYUDv2.tar.gz"), "did not complete (Connection refused")


def test_google_drive(fetch, server, tmp_path, content, monkeypatch):
    pytest.importorskip("gdown")
    drive = StandIn()
    drive.redirect(monkeypatch)
    drive.files["FILE_1"] = Shared(content, cut=[4000])
    url = "https://drive.google.com/file/d/FILE_1/view?usp=sharing"
    is_one_line(fetch("--size", 12345, url=url), "its table says 12,345")
    assert left(tmp_path) == []
    assert "layout atrc" in fetch("--size", len(content), url=url).text
    drive.close()


def test_a_killed_download_goes_on(server, tmp_path, content):
    """The process dies between two bytes; the next one asks for the rest alone."""
    server.files["/NYUDv2.tar.gz"] = big = content + os.urandom(2**24)
    command = [sys.executable, "-m", "demt", "data", "fetch", "nyud", str(tmp_path / "data"), "--keep"]
    command += ["--url", server.url("/NYUDv2.tar.gz"), "--cache-dir", str(tmp_path / "cache")]
    server.cuts, server.stalled = [2**22], threading.Event()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not any(path.stat().st_size > 2**20 for path in (tmp_path / "cache").glob("*.part")):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        server.stalled.set()
    subprocess.run(command, capture_output=True, check=False)
    (kept,) = (tmp_path / "cache").glob("*.tar.gz")
    assert kept.read_bytes() == big
    assert server.ranges[-1].startswith("bytes=")


def test_the_table_and_changes_to_it(tmp_path):
    assert find_archive("nyud").url == "https://data.vision.ee.ethz.ch/brdavid/atrc/NYUDv2.tar.gz"
    assert find_archive("nyud", "mti_net").drive_id == "14EAEMXmd3zs2hIMY63UhHPSFPDAkiTzw"
    assert find_archive("pascal", "mti_net").drive_id is None
    links = tmp_path / "links.json"
    mine = {"url": "https://example.org/a.tar.gz", "size": 5}
    links.write_text(json.dumps({"nyud": {"mti_net": {"size": 7}, "mine": mine}, "pascal": {"own": mine}}))
    changed = find_archive("nyud", "mti_net", links)
    assert (changed.size, changed.sha256) == (7, ARCHIVES["nyud"]["mti_net"].sha256)
    assert find_archive("nyud", "mine", links) == Archive(file="a.tar.gz", used_by="your table", **mine)
    assert find_archive("pascal", None, links).url == mine["url"]
    for text, words in {
        "no json": "cannot be read as a table",
        '{"nyud": 3}': "is not a table of links",
        '{"nyud": {"own": {"size": 3}}}': "Expected a `url` of nyud.own",
        '{"nyud": {"atrc": {"sice": 3}}}': "Unknown \\['sice'\\] of nyud.atrc",
        '{"nyud": {"atrc": {"url": "file:///etc/passwd"}}}': "to begin with http",
        '{"nyud": {"atrc": {"file": "../a"}}}': "to be the name of a file",
        '{"nyud": {"atrc": {"size": "3"}}}': "a number of bytes",
    }.items():
        links.write_text(text)
        with pytest.raises(ValueError, match=words):
            find_archive("nyud", None, links)
    with pytest.raises(ValueError, match="Expected a link of \\['atrc', 'invpt', 'mti_net'\\] for pascal"):
        find_archive("pascal", "astmt")
    with pytest.raises(ValueError, match="Expected a data set of \\['nyud', 'pascal'\\]"):
        find_archive("cityscapes")
