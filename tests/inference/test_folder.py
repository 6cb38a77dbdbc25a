"""Folders of pictures as files: what is written is what predict gives, once, whatever happens on the way."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

import demt
from demt import files
from demt.cli import app
from demt.data import MultiTaskFolder
from demt.inference import stream
from demt.inference.folder import predict_folder
from demt.inference.pictures import find_pictures, share
from demt.inference.save import mark_of
from demt.viz import panel, task_picture
from tests.train.worker import die, finish, in_process

SIZES = [(24, 32), (32, 24), (24, 32), (40, 40), (24, 32), (32, 24), (24, 32)]


@pytest.fixture(scope="module")
def model():
    return demt.create_model("multitask_baseline_nano.rooms", pretrained=True).eval()


def write_pictures(folder, sizes=SIZES):
    rng = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        file = folder / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*size, 3)).astype(np.uint8)).save(file)
    return folder


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(found):
    return [picture.name for picture in found]


def test_names_keep_the_folders_below_what_was_named(pictures, tmp_path, monkeypatch):
    for file in (".hidden.png", "a/notes.txt", "x.tif", "X.JPG", "__MACOSX/0.png"):
        (pictures / file).parent.mkdir(exist_ok=True)
        (pictures / file).touch()
    assert names(find_pictures(pictures)) == ["X", "a/0", "a/2", "a/4", "a/6", "b/1", "b/3", "b/5", "x_2"]
    assert names(find_pictures([pictures / "a/0.png", pictures / "b/1.png"])) == ["0", "1"]
    assert names(find_pictures(f"{pictures}/*/[0-3].png")) == ["a/0", "a/2", "b/1", "b/3"]
    assert names(find_pictures(f"{pictures}/**/*.png")) == ["a/0", "a/2", "a/4", "a/6", "b/1", "b/3", "b/5"]
    assert names(find_pictures([pictures / "a/0.png", pictures / "a", pictures / "a"])) == ["0", "2", "4", "6"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text(f"pictures/a/0.png\r\n\n{pictures}/b/1.png\npictures/../pictures/b/3.png\n")
    whole = str(pictures.relative_to("/"))
    expected = ["pictures/a/0", f"{whole}/b/1", f"{whole}/b/3"]
    assert names(find_pictures("@list.txt")) == names(find_pictures([], lists=["list.txt"])) == expected
    monkeypatch.setattr("sys.stdin", io.StringIO("pictures/a\n"))
    assert names(find_pictures([], lists=["-"])) == ["pictures/a/0", "pictures/a/2", "pictures/a/4", "pictures/a/6"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("empty", "No pictures in 'empty'; their names end in"),
        ("*.png", r"No picture fits '\*.png'"),
        ("@none.txt", "No list of pictures at 'none.txt'"),
        ("@bytes", "'bytes' is no list of pictures: expected text"),
        ("@blank", "'blank' names no pictures"),
    ],
)
def test_what_names_no_pictures(images, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "blank").write_text("\n \n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_pictures(images)


def test_files_hold_what_predict_gives(model, pictures, tmp_path):
    found = list(predict_folder(model, pictures, tmp_path / "out", batch_size=3, save=["panel", "pictures", "arrays"]))
    assert {saved.picture.name for saved in found} == {"a/0", "b/1", "a/2", "b/3", "a/4", "b/5", "a/6"}
    for saved in found:
        assert saved.error is None
        assert saved.is_new
        single, out = demt.predict(model, saved.picture.path), tmp_path / "out" / saved.picture.name
        values = np.load(f"{out}.npz")
        assert list(values) == list(model.tasks)
        for name, task in model.tasks.items():
            if task.activation == "argmax":
                assert (values[name] == single[name]).mean() > 0.999
            else:
                np.testing.assert_allclose(values[name], single[name], atol=1e-4)
            stored = Image.open(f"{out}_{name}.png")
            assert np.array_equal(stored, task_picture(task, values[name]))
        with Image.open(saved.picture.path) as image:
            ordered = {name: values[name] for name in model.tasks}
            expected = panel(image, ordered, model.tasks, note=f"Trained on {model.pretrained_cfg.trained_on}.")
        assert np.array_equal(Image.open(f"{out}_panel.png"), expected)


def test_depth_and_normals_of_16_bits_are_read_back(model, pictures, tmp_path):
    folder, out = tmp_path, tmp_path / "out"
    list(predict_folder(model, pictures, out, save=["arrays", "png16"], tasks=["depth", "normals"]))
    rows = [f"pictures/{name}.png,out/{name}_depth.16bit.png,out/{name}_normals.16bit.png" for name in ("a/0", "b/1")]
    (folder / "index.csv").write_text("\n".join(["image,depth,normals", *rows]))
    dataset = MultiTaskFolder(
        folder, "depth,normals", encodings="depth=millimetres,normals=rgb_normals_16", index="index.csv"
    )
    for sample, name in zip(dataset, ("a/0", "b/1")):
        values = np.load(out / f"{name}.npz")
        assert set(values) == {"depth", "normals"}
        np.testing.assert_allclose(sample["depth"][0], values["depth"], atol=0.00051)
        np.testing.assert_allclose(sample["normals"], values["normals"], atol=2e-5)
        # Pillow reads the file, too, not our reader alone; for colours see tests/data/test_files.py.
        grey = np.asarray(Image.open(out / f"{name}_depth.16bit.png"))
        assert np.array_equal(grey, np.rint(1000 * values["depth"].astype(float)))


def test_depth_that_16_bits_cannot_hold_has_no_label():
    from demt.inference.save import deep_values

    depth = np.array([[-1, 0, 0.0004, 0.0006, 65.535, 65.5356, 1e9]], np.float32)
    assert deep_values(demt.tasks.BUILTIN["depth"], depth).tolist() == [[0, 0, 0, 1, 65535, 0, 0]]


def predict_and_die(pictures, out, count):
    """Predict, and be killed before the file of number `count` is put in place."""
    usual, made = os.replace, []

    def replace(*paths):
        made.append(paths)
        if len(made) > count:
            die()
        usual(*paths)

    files.os.replace = replace
    model = demt.create_model("multitask_baseline_nano.rooms", pretrained=True).eval()
    list(predict_folder(model, pictures, out, batch_size=2, save=["arrays", "pictures"]))


@pytest.mark.parametrize("count", [0, 1, 8, 30])
def test_killed_and_repeated_gives_the_same_bytes(model, pictures, tmp_path, count):
    (pictures / "a/2.png").write_bytes((pictures / "a/2.png").read_bytes()[:99])
    options = {"batch_size": 2, "save": ["arrays", "pictures"]}
    list(predict_folder(model, pictures, tmp_path / "whole", **options))
    whole = contents(tmp_path / "whole")
    assert len(whole) == 6 * 7
    assert finish(in_process(predict_and_die, pictures, tmp_path / "out", count)) == -signal.SIGKILL
    half = {name: content for name, content in contents(tmp_path / "out").items() if not name.startswith(".")}
    assert len(half) >= count
    assert half.items() < whole.items()
    found = list(predict_folder(model, pictures, tmp_path / "out", **options))
    assert contents(tmp_path / "out") == whole
    assert [saved.picture.name for saved in found if saved.error] == ["a/2"]
    assert len(found) == len({saved.picture for saved in found}) == 7


def test_what_is_there_is_kept_and_what_changed_is_done_again(model, pictures, tmp_path, monkeypatch):
    (pictures / "b/3.png").write_bytes(b"broken")
    monkeypatch.setattr("demt.inference.forward.cpu_has_bf16", lambda: True)
    runs = []
    usual = stream.finite_logits
    monkeypatch.setattr(stream, "finite_logits", lambda *args: runs.append(len(args[1])) or usual(*args))

    def new(**options):
        runs.clear()
        found = predict_folder(model, pictures, tmp_path / "out", **{"save": ["arrays"], **options})
        return sorted(saved.picture.name for saved in found if saved.is_new and not saved.error)

    everything = ["a/0", "a/2", "a/4", "a/6", "b/1", "b/5"]
    assert new() == everything
    before = contents(tmp_path / "out")
    assert new() == []
    assert runs == []
    assert contents(tmp_path / "out") == before
    later = time.time() + 5
    os.utime(pictures / "a/0.png", (later, later))
    assert new() == ["a/0"]
    # Its neighbours run beside it, so that it gets the bits it had.
    assert sum(runs) == 4
    os.utime(pictures / "a/0.png", (0, 0))
    assert contents(tmp_path / "out") == before
    (tmp_path / "out/b/1.npz").unlink()
    assert new() == ["b/1"]
    assert new(max_size=20) == everything
    assert new() == everything
    assert new(save=["panel", "arrays"]) == everything
    assert new(tasks=["depth"]) == everything
    assert new(precision="bf16") == everything
    # A picture that takes the name of another one is not taken for it.
    (pictures / "a/0.bmp").write_bytes((pictures / "a/2.png").read_bytes())
    os.utime(pictures / "a/0.bmp", (0, 0))
    assert new(precision="bf16") == ["a/0", "a/0_2"]


def test_results_in_the_folder_of_pictures_are_no_pictures(model, pictures):
    for _ in range(2):
        found = list(predict_folder(model, pictures, pictures, save=["pictures"], tasks=["depth"]))
        assert len(found) == 7
    assert len(list(pictures.rglob("*.png"))) == 14


def test_processes_share_the_pictures(model, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("demt.inference.pictures.WINDOW", 2)
    list(predict_folder(model, pictures, tmp_path / "one", save=["arrays"]))
    parts = [
        [saved.picture for saved in predict_folder(model, pictures, tmp_path / "two", save=["arrays"], process=(k, 3))]
        for k in range(3)
    ]
    assert [len(part) for part in parts] == [3, 2, 2]
    assert len({picture for part in parts for picture in part}) == 7
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    taken = sorted(place for k in range(4) for window in share(17, (k, 4), 3) for place in window)
    assert taken == list(range(17))


def test_one_process_at_a_time(model, pictures, tmp_path):
    run = predict_folder(model, pictures, tmp_path / "out", save=["arrays"])
    next(run)
    with pytest.raises(ValueError, match="in use: another process predicts there"):
        list(predict_folder(model, pictures, tmp_path / "out", save=["panel"]))
    assert len(list(run)) == 6
    # What a process that was killed has left, one of more than there are now.
    (tmp_path / "out/.unfinished/3").mkdir(parents=True)
    (tmp_path / "out/.unfinished/3/.x.npz-1").touch()
    (tmp_path / "out/a/0.npz").unlink()
    list(predict_folder(model, pictures, tmp_path / "out", save=["arrays"]))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["depht"]}, r"`tasks` names \['depht'\], but the model has \['semseg'"),
        ({"tasks": []}, "`tasks` names none"),
        ({"save": ["png"]}, "`save` to be of panel, pictures, arrays, png16, got 'png'"),
        ({"save": []}, "`save` names nothing"),
        ({"save": ["png16"], "tasks": ["edge"]}, r"png16, pictures of normals and of metres; the tasks are \['edge'\]"),
        ({"precision": "half"}, "`precision` to be one of fp32, bf16, fp16, got 'half'"),
        ({"precision": "fp16"}, "fp32 or bf16 on a CPU, got fp16"),
        ({"batch_size": 0}, "`batch_size` to be an integer >= 1"),
        ({"threads": 0}, "`threads` to hold whole numbers >= 1, got 0"),
        ({"tile": 0}, "`tile` to be an integer"),
    ],
)
def test_wrong_options_write_nothing(options, message, model, pictures, tmp_path):
    with pytest.raises(ValueError, match=message):
        predict_folder(model, pictures, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder(model, pictures, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError, match="`out` to be a folder"):
        predict_folder(model, pictures, tmp_path / "out")


def test_low_precision_is_close(model, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("demt.inference.forward.cpu_has_bf16", lambda: True)
    for precision in ("fp32", "bf16"):
        list(predict_folder(model, pictures / "a", tmp_path / precision, save=["arrays"], precision=precision))
    exact, close = (np.load(tmp_path / precision / "0.npz")["depth"] for precision in ("fp32", "bf16"))
    assert 0 < np.abs(exact - close).max() < 0.1 * np.abs(exact).max()


def test_tiles_give_what_predict_gives(model, pictures, tmp_path):
    list(predict_folder(model, pictures / "b", tmp_path / "out", save=["arrays"], tile=16, overlap=4))
    single = demt.predict(model, pictures / "b/1.png", tile=16, overlap=4)
    values = np.load(tmp_path / "out/1.npz")
    assert all(np.array_equal(values[name], single[name]) for name in single)


def test_few_pictures_are_held_at_once(model):
    held, most = [0], [0]
    image = torch.rand(3, 16, 16)
    settings = stream.Settings(
        tasks=("depth",), max_size=None, tiles=None, batch_size=4, precision="fp32", threads=2, with_panel=False
    )

    def read(item):
        held[0] += 1
        most[0] = max(most[0], held[0])
        return stream.as_read(model, image, settings)

    def end(item, picture, prediction):
        held[0] -= 1

    batches = ([(start, row) for row in range(4)] for start in range(50))
    assert len(list(stream.predict_stream(model, batches, read, end, settings))) == 200
    assert held[0] == 0
    assert most[0] <= 32


def test_errors_of_writing_end_the_run(model, pictures, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        list(predict_folder(model, pictures, tmp_path / "out"))
    assert not (tmp_path / "out/.unfinished").exists()


def test_marks_are_those_of_our_files_alone(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "plain.png")
    np.savez(tmp_path / "plain.npz", a=np.zeros(3))
    (tmp_path / "text.png").write_text("text")
    about = PngImagePlugin.PngInfo()
    about.add_text("Software", "demt predict")
    Image.new("L", (4, 4)).save(tmp_path / "early.png", pnginfo=about)
    with zipfile.ZipFile(tmp_path / "early.npz", "w") as archive:
        archive.comment = b"demt predict"
    found = {path.name: mark_of(path) for path in tmp_path.iterdir()}
    assert found == {"plain.png": None, "plain.npz": None, "text.png": None, "early.png": "", "early.npz": ""}


def command(arguments, log):
    """The command in a process of its own that writes what it prints to files."""
    # A shell's background jobs, in which tests may run, ignore the signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(f"{log}.out", "w") as out, open(f"{log}.err", "w") as err, redirect_stdout(out), redirect_stderr(err):
        app(["predict", "-m", "multitask_baseline_nano.rooms", "--save", "arrays", *map(str, arguments)])


def test_interrupted_it_says_so_and_goes_on(model, tmp_path):
    write_pictures(tmp_path / "many", [(48, 64)] * 200)
    process = in_process(command, [tmp_path / "many", "-o", tmp_path / "out"], tmp_path / "log")
    until = time.monotonic() + 120
    while not list(tmp_path.glob("out/*/*.npz")) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    assert finish(process) == 130
    assert (tmp_path / "log.err").read_text() == "Interrupted; run the same command again to resume.\n"
    before = contents(tmp_path / "out")
    assert 0 < len(before) < 200
    assert all(name.endswith(".npz") for name in before)
    found = list(predict_folder(model, tmp_path / "many", tmp_path / "out", save=["arrays"]))
    assert sum(not saved.is_new for saved in found) == len(before)
    assert len(contents(tmp_path / "out")) == 200


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


@pytest.mark.parametrize(
    "launcher",
    ["gloo", pytest.param("torchrun", marks=pytest.mark.slow), pytest.param("accelerate", marks=pytest.mark.slow)],
)
def test_two_processes_give_the_files_of_one(launcher, model, tmp_path):
    pictures = write_pictures(tmp_path / "many", [(16, 16), (16, 24)] * 75)
    for broken in ("a/0.png", "b/149.png"):
        (pictures / broken).write_bytes(b"broken")
    arguments = [pictures, "-o", tmp_path / "two", "--json"]
    if launcher == "gloo":
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        both = [
            in_process(command, arguments, tmp_path / f"{rank}", environment={**common, "RANK": str(rank)})
            for rank in range(2)
        ]
        codes = [finish(process) for process in both]
        stdout, stderr = (
            "".join((tmp_path / f"{rank}.{kind}").read_text() for rank in range(2)) for kind in ("out", "err")
        )
        assert codes == [1, 0]
    else:
        launch = {
            "torchrun": ["torch.distributed.run", "--nproc-per-node", "2"],
            "accelerate": ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"],
        }[launcher]
        whole = ["-m", "demt", "predict", "-m", "multitask_baseline_nano.rooms", "--save", "arrays", *arguments]
        run = subprocess.run(
            [sys.executable, "-m", *launch, *whole],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        stdout, stderr = run.stdout, run.stderr
        assert run.returncode == 1
    assert "2 of 150 images have no predictions" in stderr
    document = json.loads(stdout)
    assert (document["new"], document["kept"], len(document["pictures"])) == (148, 0, 148)
    assert [entry["image"] for entry in document["failed"]] == [str(pictures / "a/0.png"), str(pictures / "b/149.png")]
    list(predict_folder(model, pictures, tmp_path / "one", save=["arrays"]))
    assert len(contents(tmp_path / "one")) == 148
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
