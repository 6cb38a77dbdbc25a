"""Models on the Hub, against a server on loopback that speaks its interface: what works, and what is said when not."""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from typer.testing import CliRunner

import demt
from demt import registry
from demt.cli import app
from demt.models.variants import Variant
from tests.hub_server import READER, TOKEN, HubServer

REPO = "org/name"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A saved model's files, by name."""
    folder = tmp_path_factory.mktemp("saved")
    demt.create_model("demt_nano", tasks={"depth": 1}).save_pretrained(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def client(monkeypatch, tmp_path):
    """Point huggingface_hub at an address: what `HF_ENDPOINT` and `HF_HOME` do before it is imported."""

    def use(url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    yield use
    huggingface_hub.close_session()


@pytest.fixture
def hub(client):
    with HubServer() as server:
        client(server.url)
        yield server


@pytest.fixture
def naps(monkeypatch):
    """Seconds that would have been slept between tries."""
    taken = []
    monkeypatch.setattr(time, "sleep", taken.append)
    return taken


@pytest.fixture
def register(monkeypatch):
    """Register a model for the length of a test."""

    def put(name, **location):
        config = demt.create_model("demt_nano", tasks={"depth": 1}).config
        cfg = demt.PretrainedCfg(tag="own", input_size=(3, 96, 128), hf_hub_id=REPO, **location)
        monkeypatch.setitem(registry.MODELS, f"{name}.own", Variant(config, cfg))

    return put


def same(first, second):
    second = second.state_dict()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.state_dict().items())


def other(files, value):
    """The files of a model with other weights."""
    state = safetensors.torch.load(files["model.safetensors"])
    state["head.neck.norm.bias"].fill_(value)
    return {**files, "model.safetensors": safetensors.torch.save(state)}


def bias(model):
    return model.state_dict()["head.neck.norm.bias"][0].item()


def sha256(files):
    return hashlib.sha256(files["model.safetensors"]).hexdigest()


# What works


def test_push_and_pull(hub):
    model = demt.create_model("demt_nano", tasks={"depth": 1})
    first = model.push_to_hub(REPO, token=TOKEN, private=True)
    assert hub.repos[REPO].private
    assert sorted(hub.repos[REPO].commits[first.oid]) == [
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert f'create_model("hf-hub:{REPO}")' in hub.repos[REPO].commits[first.oid]["README.md"].decode()
    pulled = demt.MultiTaskModel.from_pretrained(REPO, token=TOKEN)
    assert same(model, pulled)
    assert not pulled.training
    assert (pulled.pretrained_cfg.hf_hub_id, pulled.pretrained_cfg.revision) == (REPO, first.oid)

    hub.repos[REPO].commit({**hub.repos[REPO].commits[first.oid], "README.md": b"written by hand"})
    second = model.push_to_hub(REPO, token=TOKEN)
    assert hub.repos[REPO].commits[second.oid]["README.md"] == b"written by hand"
    third = model.push_to_hub(REPO, token=TOKEN, branch="next", card=demt.ModelCard(title="Mine"))
    assert b"# Mine" in hub.repos[REPO].commits[third.oid]["README.md"]
    assert hub.repos[REPO].branches == {"main": second.oid, "next": third.oid}


def test_pushing_needs_the_right_to(hub, files):
    model = demt.create_model("demt_nano", tasks={"depth": 1})
    with pytest.raises(PermissionError, match=r"answered 401 for org/name.*pass token="):
        model.push_to_hub(REPO)
    hub.add(REPO, files)
    with pytest.raises(PermissionError, match="answered 403"):
        model.push_to_hub(REPO, token=READER)


def test_names_and_pins(hub, files, tmp_path, monkeypatch):
    old = hub.add(REPO, other(files, 1))
    new = hub.repos[REPO].commit(other(files, 2))
    hub.repos[REPO].branches["v1.0"] = old
    assert bias(demt.create_model(f"hf-hub:{REPO}")) == 2
    assert bias(demt.create_model(f"hf-hub:{REPO}@{old}")) == 1
    assert bias(demt.create_model(f"hf-hub:{REPO}@v1.0")) == 1
    assert bias(demt.MultiTaskModel.from_pretrained(REPO, revision=old)) == 1
    hub.requests.clear()
    assert bias(demt.MultiTaskModel.from_pretrained(f"{REPO}@{new}")) == 2
    assert hub.requests == [], "a commit in the cache needs no network"
    hub.repos[REPO].commit(other(files, 3))
    assert bias(demt.create_model(f"hf-hub:{REPO}")) == 3

    monkeypatch.chdir(tmp_path)
    demt.create_model("demt_nano", tasks={"edge": 1}).save_pretrained(REPO)
    assert list(demt.MultiTaskModel.from_pretrained(REPO).tasks) == ["edge"], "a folder of that name comes first"
    assert list(demt.create_model(f"hf-hub:{REPO}", tasks={"edge": 1, "depth": 1}).tasks) == ["edge", "depth"]
    with pytest.raises(ValueError, match="names a revision already"):
        demt.MultiTaskModel.from_pretrained("org/other@v1", revision="v2")
    with pytest.raises(ValueError, match="has no revisions"):
        demt.MultiTaskModel.from_pretrained(tmp_path, revision="v2")


def test_both_files_are_of_one_commit(hub, files):
    class Moving(list):
        def append(self, request):
            super().append(request)
            if request.startswith("GET") and request.endswith("config.json"):
                hub.repos[REPO].commit(other(files, 2))

    hub.add(REPO, other(files, 1))
    hub.requests = Moving()
    assert bias(demt.create_model(f"hf-hub:{REPO}")) == 1


def test_pretrained_by_name(hub, files, register, tmp_path):
    commit = hub.add(REPO, other(files, 5))
    register("own_model", revision=commit, sha256=sha256(other(files, 5)))
    assert demt.list_models("own*", pretrained=True) == ["own_model.own"]
    model = demt.create_model("own_model", pretrained=True, cache_dir=tmp_path / "elsewhere")
    assert bias(model) == 5
    assert model.training
    assert model.pretrained_cfg.input_size == (3, 96, 128)
    assert (tmp_path / "elsewhere/models--org--name").is_dir()
    assert not (tmp_path / "cache").exists()
    hub.requests.clear()
    assert bias(demt.create_model("own_model", cache_dir=tmp_path / "elsewhere")) != 5
    assert hub.requests == []


def test_weights_of_the_backbone_alone(hub, tmp_path):
    source = timm.create_model("resnet18")
    hub.add("timm/own", {"model.safetensors": safetensors.torch.save(source.state_dict())})
    kwargs = {"pretrained_cfg_overlay": {"hf_hub_id": "timm/own"}}
    model = demt.create_model(
        "demt",
        backbone="resnet18",
        backbone_kwargs=kwargs,
        tasks={"depth": 1},
        width=16,
        pretrained_backbone=True,
        cache_dir=tmp_path / "elsewhere",
    )
    assert torch.equal(model.backbone.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    assert (tmp_path / "elsewhere/models--timm--own").is_dir()


def test_a_registered_name_is_pinned(register):
    with pytest.raises(ValueError, match="`revision` as a full commit hash and the `sha256`"):
        register("own_model", revision="main", sha256="0" * 64)
    with pytest.raises(ValueError, match="`sha256` to be 64 lower-case hexadecimal digits"):
        register("own_model", revision="0" * 40, sha256="0" * 63)


def test_private_repositories(hub, files, monkeypatch):
    hub.add(REPO, files, private=True)
    for token in (None, "hf_wrong"):
        with pytest.raises(FileNotFoundError, match=r"No repository 'org/name' .*if it is private, log in"):
            demt.MultiTaskModel.from_pretrained(REPO, token=token)
    # The server refuses a large file's download that shows the token to the other host.
    demt.MultiTaskModel.from_pretrained(REPO, token=TOKEN, force_download=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    demt.create_model(f"hf-hub:{REPO}")


def test_a_broken_download_goes_on_where_it_broke(hub, files, naps):
    hub.add(REPO, other(files, 4))
    hub.cuts = [100_000]
    # The first releases of huggingface_hub 1.x go on when asked again, later ones by themselves.
    with contextlib.suppress(ConnectionError):
        demt.create_model(f"hf-hub:{REPO}")
    assert bias(demt.create_model(f"hf-hub:{REPO}")) == 4
    assert hub.ranges == [None, "bytes=100000-"]


def test_a_description_takes_no_weights(hub, files):
    hub.add(REPO, files)
    result = CliRunner().invoke(app, ["info", f"hf-hub:{REPO}"])
    assert result.exit_code == 0, result.output
    assert "downloaded when first used" in result.output
    assert not [request for request in hub.requests if "safetensors" in request]
    demt.create_model(f"hf-hub:{REPO}")
    assert "on this machine" in CliRunner().invoke(app, ["info", f"hf-hub:{REPO}"]).output


def test_a_broken_download_that_never_goes_on(hub, files, naps):
    hub.add(REPO, other(files, 4))
    hub.cuts = [100_000, *[0] * 6]
    with pytest.raises(ConnectionError, match=r"broke off .*org/name@.* is not in the cache .* check the network"):
        demt.create_model(f"hf-hub:{REPO}")
    hub.cuts.clear()
    assert bias(demt.create_model(f"hf-hub:{REPO}")) == 4


def test_two_processes_at_once(hub, files, tmp_path):
    class Meeting(list):
        first, both = threading.Event(), threading.Barrier(2, timeout=100)

        def append(self, request):
            super().append(request)
            if request.startswith("GET /api/models"):
                self.first.set()
                self.both.wait()

    files = other(files, 7)
    hub.add(REPO, files)
    hub.requests = Meeting()
    code = f"import demt; print(demt.create_model('hf-hub:{REPO}').state_dict()['head.neck.norm.bias'][0].item())"
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command, environment = [sys.executable, "-c", code], {**os.environ, **settings, "PYTHONPATH": path}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert Meeting.first.wait(timeout=100)
        assert bias(demt.create_model(f"hf-hub:{REPO}", cache_dir=tmp_path / "hub")) == 7
        assert process.communicate()[0].strip() == "7.0"
    blobs = (tmp_path / "hub/models--org--name/blobs").iterdir()
    whole = [len(files[name]) for name in ("config.json", "model.safetensors")]
    assert sorted(blob.stat().st_size for blob in blobs) == sorted(whole)


def test_command_line(hub, files, tmp_path):
    hub.add(REPO, files)
    torch.manual_seed(0)
    photo = tmp_path / "photo.png"
    Image.new("RGB", (50, 40)).save(photo)
    command = ["predict", str(photo), "--model", f"hf-hub:{REPO}", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/photo_panel.png").is_file()
    result = CliRunner().invoke(app, [*command[:3], "hf-hub:org/nothing"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: No repository 'org/nothing'")
    assert CliRunner().invoke(app, [*command, "--random-weights"]).exit_code == 1


# Without network


def test_offline(hub, files, monkeypatch):
    hub.add(REPO, other(files, 6))
    demt.create_model(f"hf-hub:{REPO}")
    hub.requests.clear()
    assert bias(demt.MultiTaskModel.from_pretrained(REPO, local_files_only=True)) == 6
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert bias(demt.create_model(f"hf-hub:{REPO}")) == 6
    for name in (f"{REPO}@v2", "org/other"):
        with pytest.raises(FileNotFoundError, match=f"{name} is not in the cache .*offline mode"):
            demt.create_model(f"hf-hub:{name}")
    assert hub.requests == []


def test_no_network(client, hub, files, naps, caplog):
    hub.add(REPO, other(files, 6))
    commit = hub.repos[REPO].branches["main"]
    demt.create_model(f"hf-hub:{REPO}")
    # Nobody listens on port 9 of loopback.
    client("http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:9 does not answer.* org/other is not in the cache"):
        demt.create_model("hf-hub:org/other")
    with pytest.raises(ConnectionError, match="does not answer"):
        demt.MultiTaskModel.from_pretrained(REPO, revision="0" * 40)
    with pytest.raises(ConnectionError, match="does not answer"):
        demt.MultiTaskModel.from_pretrained(REPO, force_download=True)
    with pytest.raises(ConnectionError, match=r"does not answer, or broke off .*: check the network"):
        demt.create_model("demt_nano", tasks={"depth": 1}).push_to_hub(REPO)
    assert not caplog.messages
    assert bias(demt.create_model(f"hf-hub:{REPO}@{commit}")) == 6
    assert not caplog.messages
    assert bias(demt.create_model(f"hf-hub:{REPO}")) == 6
    assert caplog.messages == [f"http://127.0.0.1:9 does not answer: using the last cached state of {REPO}"]
    assert naps == [], "no waiting for a network that is not there"


def test_a_hub_in_trouble(hub, files, naps, caplog):
    hub.add(REPO, files)
    hub.status = 503
    with pytest.raises(ConnectionError, match="answered 503 for org/name"):
        demt.create_model(f"hf-hub:{REPO}")
    hub.status = None
    demt.create_model(f"hf-hub:{REPO}")
    hub.status = 503
    demt.create_model(f"hf-hub:{REPO}")
    assert "using the last cached state" in caplog.text
    assert naps == []


# What is missing or wrong


def test_missing(hub, files):
    hub.add(REPO, files)
    with pytest.raises(FileNotFoundError, match="No repository 'org/nothing'"):
        demt.create_model("hf-hub:org/nothing")
    with pytest.raises(FileNotFoundError, match="org/name has no revision 'v9'"):
        demt.create_model(f"hf-hub:{REPO}@v9")
    hub.add("org/pickled", {"config.json": files["config.json"], "pytorch_model.bin": b"x"})
    with pytest.raises(
        FileNotFoundError, match=r"has no model.safetensors, .*it has .'config.json', 'pytorch_model.bin'"
    ):
        demt.create_model("hf-hub:org/pickled")
    hub.add("org/else", {"weights.gguf": b"x"})
    with pytest.raises(FileNotFoundError, match=r"has no config.json and no model.safetensors"):
        demt.create_model("hf-hub:org/else")


def test_wrong_checksum(hub, files, register):
    commit = hub.add(REPO, files)
    register("own_model", revision=commit, sha256="0" * 64)
    with pytest.raises(ValueError, match=f"has sha256 {sha256(files)}, expected {'0' * 64}: nothing was loaded"):
        demt.create_model("own_model", pretrained=True)


def test_a_damaged_cache_is_found_and_mended(hub, files, register, tmp_path):
    commit = hub.add(REPO, files)
    register("own_model", revision=commit, sha256=sha256(files))
    demt.create_model("own_model", pretrained=True)
    weights = next((tmp_path / "cache").rglob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with pytest.raises(ValueError, match=r"from_pretrained\('org/name@\w+', force_download=True\) repairs the cache"):
        demt.create_model("own_model", pretrained=True)
    demt.MultiTaskModel.from_pretrained(f"{REPO}@{commit}", force_download=True)
    demt.create_model("own_model", pretrained=True)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("kind", ["truncated", "pickle"])
def test_files_that_are_not_safetensors(hub, files, tmp_path, kind):
    marker = tmp_path / "was run"
    payload = pickle.dumps(Payload(marker))
    pickle.loads(payload)
    marker.unlink()
    weights = payload if kind == "pickle" else files["model.safetensors"][:-1000]
    hub.add(REPO, {**files, "model.safetensors": weights})
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        demt.create_model(f"hf-hub:{REPO}")
    assert not marker.exists()


# A disk that takes nothing


@contextlib.contextmanager
def no_room():
    """Files cannot grow beyond 100 kB."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk(hub, files, tmp_path):
    hub.add(REPO, other(files, 8))
    with (
        no_room(),
        pytest.raises(OSError, match=r"Cannot write org/name@\w+ into the cache .*: make room, or give another"),
    ):
        demt.create_model(f"hf-hub:{REPO}")
    model = demt.create_model(f"hf-hub:{REPO}")
    assert bias(model) == 8
    demt.create_model("demt_nano", tasks={"depth": 1}).save_pretrained(tmp_path / "mine")
    before = {file.name: file.read_bytes() for file in (tmp_path / "mine").iterdir()}
    with no_room(), pytest.raises(OSError, match="Cannot write the weights"):
        model.save_pretrained(tmp_path / "mine")
    assert {file.name: file.read_bytes() for file in (tmp_path / "mine").iterdir()} == before


@contextlib.contextmanager
def read_only(folder):
    """A folder that cannot be written; root can write all folders, so as another user."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs users")
    root = os.geteuid() == 0
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in places:
        path.chmod(0o555)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in places:
            path.chmod(0o755)


def test_a_read_only_cache(hub, files, monkeypatch):
    hub.add(REPO, other(files, 9))
    hub.add("org/other", files)
    # Not in pytest's folder, which other users cannot enter.
    cache = Path(tempfile.mkdtemp())
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    try:
        demt.create_model(f"hf-hub:{REPO}", cache_dir=cache)
        with read_only(cache):
            assert bias(demt.create_model(f"hf-hub:{REPO}", cache_dir=cache)) == 9
            with pytest.raises(PermissionError, match="Cannot write org/other into the cache"):
                demt.create_model("hf-hub:org/other", cache_dir=cache)
    finally:
        shutil.rmtree(cache)


def test_config_names_what_rebuilds_the_model(files):
    config = json.loads(files["config.json"])
    assert {"hf_hub_id", "revision", "sha256", "file"}.isdisjoint(config["pretrained_cfg"])
