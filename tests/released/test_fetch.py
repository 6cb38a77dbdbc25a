"""Fetching checkpoints from a stand-in of Google Drive on this machine: what is kept, and what goes wrong."""

import contextlib
import dataclasses
import json
import logging
import os
import random
import signal
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import demt
from demt.cli import app
from demt.released import tables
from demt.released.cache import fetched_folder, released_cache
from demt.released.fetch import fetch
from tests.drive_stand_in import QUOTA, Shared, StandIn
from tests.golden import make
from tests.released_form import released_form, save_as_lightning
from tests.test_golden import check_close

gdown = pytest.importorskip("gdown")
resource = pytest.importorskip("resource")

NAME = "demt_hrnet_w18.nyud"
FILE_ID = "1TestsOwnSmallFile"
PIECE = 2**20  # gdown writes whole pieces of half of that


@pytest.fixture
def drive(monkeypatch):
    stand_in = StandIn()
    stand_in.redirect(monkeypatch)
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.0)  # gdown waits that long between its tries
    yield stand_in
    stand_in.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "demt" / "released"


@pytest.fixture
def small(monkeypatch):
    """A small model's row, with a file that it may share with another family and data set, as some rows do."""
    row = dataclasses.replace(
        tables.published(NAME), file_id=FILE_ID, names=(NAME, "demtg_hrnet_w18.nyud", "demt_hrnet_w18.pascal")
    )
    monkeypatch.setattr(tables, "ROWS", (*tables.ROWS, row))
    monkeypatch.setattr(tables, "_BY_NAME", {**tables._BY_NAME, **dict.fromkeys(row.names, row)})
    return row


def checkpoint_bytes(tmp_path, monkeypatch, state, **more):
    file = tmp_path / "made.ckpt"
    save_as_lightning(state, file, monkeypatch, **more)
    content = file.read_bytes()
    file.unlink()
    return content


@pytest.fixture(scope="module")
def made():
    def make_state(name=NAME, **options):
        torch.manual_seed(1)
        model = demt.create_model(name, **options).eval()
        return model, released_form(model.state_dict(), family=model.config.family, tasks=list(model.tasks))

    return make_state


def left_over(root):
    """What lies in the cache beside models; locks are not counted."""
    return sorted(p.name for p in (root / ".downloads").iterdir() if p.suffix != ".lock")


@pytest.mark.parametrize(
    ("case", "asked", "kept"),
    [
        ("demt-swin_t-nyud-97x131", "demt_swin_tiny", "demt_swin_tiny.nyud"),
        ("demtg-swin_t-pascal-97x131", "degmix_swin_tiny.pascal", "demtg_swin_tiny.pascal"),
        ("degmix-swin_t-nyud-97x131", "demtg_swin_tiny.nyud", "degmix_swin_tiny.nyud"),
    ],
)
def test_fetched_models_compute_what_the_authors_code_computes(case, asked, kept, drive, cache, tmp_path, monkeypatch):
    info, expected = make.cases("models")[case], make.expected("models")
    row = tables.published(asked)
    drive.files[row.file_id] = Shared(checkpoint_bytes(tmp_path, monkeypatch, make.state_dict(info["manifest"])))
    result = CliRunner().invoke(app, ["fetch", asked])
    assert result.exit_code == 0, result.output
    assert f'demt.create_model("{kept}", pretrained=True)' in result.stdout
    labelled = row.names[0].partition(".")[0]
    assert ("Mismatch: the authors label the file" in result.stderr) == (labelled != kept.partition(".")[0])
    folder = fetched_folder(kept)
    assert folder == cache / kept
    source = json.loads((folder / "source.json").read_text())
    assert (source["name"], source["label"], source["file_id"]) == (kept, row.label, row.file_id)
    model = demt.create_model(kept, pretrained=True).eval()
    images = make.made_input(case, "image", (1, 3, *info["input_size"]))
    with torch.no_grad():
        outputs = model(images)
    step = info["output_stride"]
    for task, logits in outputs.items():
        check_close(logits[..., ::step, ::step], expected[f"{case}/{task}"], task)
    assert model.pretrained_cfg.tag == kept.partition(".")[2]
    assert left_over(cache) == []


def test_what_is_there_is_not_fetched_again(small, made, drive, cache, tmp_path, monkeypatch):
    model, state = made()
    drive.files[FILE_ID] = Shared(checkpoint_bytes(tmp_path, monkeypatch, state), asks=False)
    first = fetch(NAME)
    requests = len(drive.sent)
    again = fetch(NAME)
    assert (first.new, again.new) == (True, False)
    assert again.folder == first.folder
    assert len(drive.sent) == requests
    assert "There already" in CliRunner().invoke(app, ["fetch", NAME]).stdout
    before = (first.folder / "source.json").read_text()
    state["head.smlp.0.bias"] = state["head.smlp.0.bias"] + 1
    drive.files[FILE_ID] = Shared(checkpoint_bytes(tmp_path, monkeypatch, state))
    assert fetch(NAME, force=True).new
    assert (first.folder / "source.json").read_text() != before
    loaded = demt.create_model(NAME, pretrained=True).state_dict()
    assert torch.equal(loaded["head.interaction.linear.bias"], model.state_dict()["head.interaction.linear.bias"] + 1)


def test_own_tasks_and_cache_dir(small, made, drive, cache, tmp_path, monkeypatch, caplog):
    model, state = made()
    drive.files[FILE_ID] = Shared(checkpoint_bytes(tmp_path, monkeypatch, state))
    fetched = fetch(NAME, tmp_path)
    assert fetched.folder == tmp_path / NAME == fetched_folder(NAME, tmp_path)
    assert released_cache(tmp_path) == tmp_path
    with pytest.raises(ValueError, match="demt fetch"):
        demt.create_model(NAME, pretrained=True)
    with caplog.at_level(logging.WARNING, "demt"):
        adapted = demt.create_model(NAME, pretrained=True, cache_dir=tmp_path, tasks={"semseg": 7, "sal": 2})
    assert "new: task 'sal', logits of 'semseg'" in caplog.text
    kept = adapted.state_dict()["head.mixers.semseg.blocks.0.spatial.proj.weight"]
    assert torch.equal(kept, model.state_dict()["head.mixers.semseg.blocks.0.spatial.proj.weight"])


def test_before_it_is_fetched_the_error_says_the_command(small, cache):
    with pytest.raises(ValueError, match=r"demt fetch demt_hrnet_w18\.nyud$"):
        demt.create_model("demt_hrnet_w18", pretrained=True)
    with pytest.raises(ValueError, match=r"No weights are published for 'degmix_nano' .* demt.load_released"):
        demt.create_model("degmix_nano", pretrained=True)


def test_an_interrupted_download_goes_on(small, made, drive, cache, tmp_path, monkeypatch):
    model, state = made()
    content = checkpoint_bytes(tmp_path, monkeypatch, state)
    drive.files[FILE_ID] = Shared(content)

    def interrupt(received, total):
        assert total == len(content)
        if received > 2_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(NAME, progress=interrupt)
    assert fetched_folder(NAME) is None
    (part,) = left_over(cache)
    received = (cache / ".downloads" / part).stat().st_size
    assert 2_000_000 < received < len(content)
    drive.sent.clear()
    fetch(NAME)
    assert [wanted for _, wanted in drive.sent if wanted] == [f"bytes={received}-"]
    loaded, wanted = demt.create_model(NAME, pretrained=True).state_dict(), model.state_dict()
    assert all(torch.equal(loaded[n], wanted[n]) for n in wanted)
    assert left_over(cache) == []


def test_a_broken_connection_is_taken_up_again_and_given_up_in_the_end(
    small, made, drive, cache, tmp_path, monkeypatch
):
    content = checkpoint_bytes(tmp_path, monkeypatch, made()[1])
    drive.files[FILE_ID] = Shared(content, cut=[PIECE, PIECE])
    fetch(NAME)
    assert [wanted for _, wanted in drive.sent if wanted] == [f"bytes={PIECE}-", f"bytes={2 * PIECE}-"]
    drive.files[FILE_ID] = Shared(content, cut=[PIECE] * 4)
    result = CliRunner().invoke(app, ["fetch", NAME, "--force"])
    assert result.exit_code == 1
    assert "did not complete" in result.stderr
    assert "The same command resumes where it stopped" in result.stderr
    assert fetched_folder(NAME)  # the older one
    assert (cache / ".downloads" / left_over(cache)[0]).stat().st_size == 4 * PIECE


def test_a_part_that_drive_does_not_continue_is_dropped(small, made, drive, cache, tmp_path, monkeypatch):
    content = checkpoint_bytes(tmp_path, monkeypatch, made()[1])
    drive.files[FILE_ID] = Shared(content, ranges=False)
    (cache / ".downloads").mkdir(parents=True)
    (cache / ".downloads" / f"{FILE_ID}.ckptabcdefgh.part").write_bytes(b"of an older file")
    assert fetch(NAME).name == NAME
    assert left_over(cache) == []


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        (
            Shared(page=QUOTA),
            r"does not hand out the file: Too many users have viewed or downloaded this file recently",
        ),
        (Shared(page="<html>Error 404 (Not Found)!!1</html>", status=404), r"does not hand out the file: Cannot retri"),
        (Shared(b"<html>Sign in</html>"), r"'DeMT, HRNet-18, NYUD-v2' .*cannot be used: .* cannot be read as w"),
    ],
    ids=["quota", "404", "not a checkpoint"],
)
def test_what_is_no_file(shared, message, small, drive, cache):
    drive.files[FILE_ID] = shared
    with pytest.raises((OSError, ValueError), match=message):
        fetch(NAME)
    result = CliRunner().invoke(app, ["fetch", NAME])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert fetched_folder(NAME) is None
    assert left_over(cache) == []


def test_a_quota_page_is_told_how_to_get_round(small, drive, cache):
    drive.files[FILE_ID] = Shared(page=QUOTA)
    with pytest.raises(OSError, match=rf"drive\.google\.com/open\?id={FILE_ID} .*--file"):
        fetch(NAME)


def test_a_server_that_is_not_there(small, drive, cache):
    drive.close()
    part = cache / ".downloads" / f"{FILE_ID}.ckptabcdefgh.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"a part")
    with pytest.raises(OSError, match=r"The download did not complete: .*Connection refused"):
        fetch(NAME)
    assert part.read_bytes() == b"a part"


def test_another_family_or_data_set_is_reported_and_kept_as_what_it_is(
    small, made, drive, cache, tmp_path, monkeypatch
):
    _, state = made("demtg_hrnet_w18.nyud")
    drive.files[FILE_ID] = Shared(checkpoint_bytes(tmp_path, monkeypatch, state))
    fetched = fetch(NAME)
    assert fetched.name == "demtg_hrnet_w18.nyud"
    assert fetched.mismatch == ("family demtg, not demt",)
    assert fetched_folder(NAME) is None
    with pytest.raises(
        ValueError, match=r"labelled 'DeMT, HRNet-18, NYUD-v2' was fetched, but it contains 'demtg_hrnet_w18"
    ):
        demt.create_model(NAME, pretrained=True)
    assert demt.create_model("demtg_hrnet_w18.nyud", pretrained=True).config.family == "demtg"
    again = fetch(NAME)
    assert (again.new, again.name, again.mismatch) == (False, fetched.name, fetched.mismatch)
    _, state = made("demt_hrnet_w18.pascal")
    drive.files[FILE_ID] = Shared(checkpoint_bytes(tmp_path, monkeypatch, state))
    fetched = fetch(NAME, tmp_path / "other")
    assert fetched.name == "demt_hrnet_w18.pascal"
    assert fetched.mismatch[0].startswith("tasks semseg (21), human_parts (7)")


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("degmix_hrnet_w18.nyud", {}, "family degmix, not demt"),
        (
            "demt_hrnet_w18",
            {"tasks": {"semseg": 19, "depth": 1}},
            r"tasks semseg \(19\), depth \(1\), not semseg",
        ),
        ("demt_swin_tiny.nyud", {}, "backbone swin_tiny.*, not hrnet_w18_small_v2.ms_in1k"),
    ],
)
def test_what_the_row_cannot_be_is_refused(name, options, found, small, made, cache, tmp_path, monkeypatch):
    file = tmp_path / "mine.ckpt"
    save_as_lightning(made(name, **options)[1], file, monkeypatch)
    with pytest.raises(ValueError, match=rf"{found}.*Nothing was put into the cache.*demt convert .*mine.ckpt FOLDER"):
        fetch(NAME, file=file)
    assert file.exists()
    assert [p.name for p in cache.iterdir()] == [".downloads"]


def test_a_variant_of_the_model_is_built_as_the_file_says(small, made, cache, tmp_path, monkeypatch):
    file = tmp_path / "mine.ckpt"
    state = made("demt_hrnet_w18", depth=2, tasks={"semseg": 40, "depth": 1}, head_width=16)[1]
    save_as_lightning(state, file, monkeypatch)
    result = CliRunner().invoke(app, ["fetch", NAME, "--file", str(file)])
    assert result.exit_code == 0
    for note in ("no normals, edge", "depth 2, not 1", "parameters, not 6.62 M"):
        assert f"Note: it has {note}" in result.stderr or note in result.stderr
    model = demt.create_model(NAME, pretrained=True)
    assert (model.config.depth, model.config.head_width, list(model.tasks)) == (2, 16, ["semseg", "depth"])
    assert model.pretrained_cfg.input_size == (3, 425, 560)


class Runs:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, exec])
def test_hostile_files_run_nothing(function, small, made, drive, cache, tmp_path, monkeypatch):
    marker = tmp_path / "ran"
    argument = f"touch {marker}" if function is os.system else f"open({str(marker)!r}, 'w')"
    content = checkpoint_bytes(tmp_path, monkeypatch, made()[1], callbacks=Runs(function, argument))
    drive.files[FILE_ID] = Shared(content)
    with contextlib.suppress(ValueError):
        fetch(NAME)
    assert not marker.exists()


@contextlib.contextmanager
def files_of_at_most(size):
    """Writing further than that fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room(small, made, drive, cache, tmp_path, monkeypatch):
    file = tmp_path / "mine.ckpt"
    save_as_lightning(made()[1], file, monkeypatch)
    with files_of_at_most(1_000_000):
        with pytest.raises(OSError, match=r"converted model cannot be written to .*File too large"):
            fetch(NAME, file=file)
        assert (fetched_folder(NAME), left_over(cache)) == (None, [])
        drive.files[FILE_ID] = Shared(file.read_bytes())
        with pytest.raises(OSError, match=r"no space for the download in .*resumes where it stopped"):
            fetch(NAME)
    assert fetched_folder(NAME) is None
    assert fetch(NAME).new
    assert "bytes=1000000-" in [wanted for _, wanted in drive.sent]


def test_killed_while_converting(made, cache, tmp_path, monkeypatch):
    """A process is killed when half of the weights are written; the next one cleans up and succeeds."""
    name, file = "degmix_swin_tiny.nyud", tmp_path / "mine.ckpt"
    save_as_lightning(make.state_dict("manifest-degmix-swin_t-nyud.json"), file, monkeypatch)
    code = f"""
import os, signal, safetensors.torch
from demt.released.fetch import fetch
def half(tensors, target, **kwargs):
    with open(target, "wb") as opened:
        opened.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
safetensors.torch.save_file = half
fetch({name!r}, {str(cache)!r}, file={str(file)!r})
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert fetched_folder(name) is None
    assert left_over(cache) == [f"{tables.published(name).file_id}.folder"]
    with pytest.raises(ValueError, match=f"demt fetch {name}"):
        demt.create_model(name, pretrained=True)
    assert fetch(name, file=file).folder == fetched_folder(name)
    assert left_over(cache) == []


def test_wrong_names(cache):
    with pytest.raises(ValueError, match=r"Unknown model 'demt_swin_tny'; did you mean one of \['demt_swin_tiny'"):
        fetch("demt_swin_tny")
    with pytest.raises(ValueError, match=r"published no checkpoint of 'demt_swin_base.pascal'"):
        fetch("demt_swin_base.pascal")
    with pytest.raises(FileNotFoundError, match="No weights at"):
        fetch("demt_swin_tiny", file=cache / "nothing.ckpt")
    assert fetched_folder("../../etc") is None


def test_without_gdown(monkeypatch, cache):
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(ImportError, match=r"pip install 'demt\[released\]', or download the file in a browser"):
        fetch("demt_swin_tiny")


def test_the_tables_name_models():
    for row in tables.ROWS:
        for name in row.names:
            assert demt.is_model(name), name
            assert tables.published(name) in [each for each in tables.ROWS if name in each.names]
            tasks = demt.registry.get_config(name)[0].tasks
            assert set(row.results) <= set(tasks) <= set(tables.MEASURES)
    assert tables.published("demt_swin_tiny") is tables.published("demt_swin_tiny.nyud")
    assert tables.published("demt_nano") is None


def test_rows_are_those_of_the_authors_pages():
    # README of DeGMix (36da078), of DeMTG (b3be4ef) and of DeMT (b638e14).
    row = tables.published("degmix_swin_tiny.pascal_tuning")
    assert row.results == {"semseg": 67.37, "human_parts": 56.87, "sal": 64.12, "normals": 15.67}
    assert "not maxF" in row.note
    assert tables.published("degmix_swin_tiny.nyud").file_id == "14qIRWaGzfTlkyQRb97xOOsWLmQYATGfI"
    assert tables.published("demtg_swin_tiny.nyud").file_id == "1Xk-5cmpQrikJyv-fVlfF2YT541rRjyOU"
    names = tables.names_of_file("1Xk-5cmpQrikJyv-fVlfF2YT541rRjyOU")
    assert {"demtg_swin_tiny.nyud", "degmix_swin_tiny.pascal"} <= set(names)
    assert tables.published("demt_swin_small.nyud").page.endswith("drive/folders/1jINF9WOyILqrPcsprWbM5VSCEWozsc1c")
    with pytest.raises(ValueError, match=r"link a folder, https://drive.*demt convert FILE FOLDER"):
        fetch("demt_swin_small.nyud")
    with pytest.raises(ValueError, match=r"link a folder, https://drive.*demt convert FILE FOLDER"):
        demt.create_model("demt_swin_small.nyud", pretrained=True)
