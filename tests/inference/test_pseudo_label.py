"""Pictures labelled by a teacher: what is stored is what the teacher says where it is sure, also after a kill."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import demt
from demt import files
from demt.cli import app
from demt.data import MultiTaskFolder
from demt.data.doctor.check import check_folder
from demt.data.doctor.recognise import propose
from demt.inference.pseudo_label import RECORD, pseudo_label
from demt.inference.teachers import TeacherError
from demt.losses import balanced_bce
from tests.train.worker import die, finish, in_process

TASKS = "edge,sal,semseg=4,depth,normals,crack=1:boundary,height=2:values"


def teacher(pixels):
    """Probabilities from 0 to 1 over the columns; classes by row, sure on the left; depth of -1, 0, NaN and the red."""
    height, width = pixels.shape[:2]
    ramp = np.broadcast_to(np.linspace(0, 1, width), (height, width))
    ids = np.broadcast_to(np.arange(height)[:, None] % 4, (height, width))
    depth = 1 + pixels[:, :, 0] / 100
    depth[0, :3] = -1, 0, np.nan
    normals = np.zeros((3, height, width))
    normals[2] = 5
    normals[:, 0, 0] = 0
    values = np.stack([ramp, np.where(ramp > 0.9, np.inf, 2 * ramp)])
    return {
        "edge": ramp,
        "sal": 1 - ramp,
        "semseg": (ids, 1 - ramp),
        "depth": depth,
        "normals": normals,
        "crack": ramp[None],
        "height": values,
    }


def write_pictures(folder, count=3):
    rng = np.random.default_rng(0)
    for number in range(count):
        name = folder / ("sub" if number == 1 else ".") / f"{number}.{'jpg' if number == 2 else 'png'}"
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12 + number, 22, 3)).astype(np.uint8)).save(name)
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures")


def test_what_is_stored_is_what_the_teacher_is_sure_of(pictures, tmp_path):
    made = pseudo_label(teacher, pictures, tmp_path / "out", tasks=TASKS, negative=0.3, positive=0.7, confidence=0.6)
    assert (made.tasks, made.encodings, made.failed) == (TASKS, "edge=values,sal=classes,crack=values", {})
    dataset = MultiTaskFolder(made.folder, made.tasks, encodings=made.encodings)
    assert dataset.ids == ["0", "2", "sub/1"]
    for index, name in enumerate(("0.png", "2.jpg", "sub/1.png")):
        sample, pixels = dataset[index], np.asarray(Image.open(pictures / name))
        assert np.array_equal(sample["image"].permute(1, 2, 0), pixels)
        said = teacher(pixels)
        ramp = said["edge"]
        sure = np.where(ramp < 0.3, 0, np.where(ramp > 0.7, 1, 255))
        assert np.array_equal(sample["edge"][0], sure)
        assert np.array_equal(sample["crack"][0], sure)
        assert np.array_equal(sample["sal"][0], np.where(sure == 255, 255, 1 - sure))
        assert np.array_equal(sample["semseg"][0], np.where(1 - ramp < 0.6, 255, said["semseg"][0]))
        depth = said["depth"].astype(np.float32)
        depth[0, :3] = 255
        assert np.array_equal(sample["depth"][0], depth)
        normals = np.zeros_like(said["normals"])
        normals[2], normals[:, 0, 0] = 1, 255
        assert np.array_equal(sample["normals"], normals)
        held = np.isfinite(said["height"][1])
        assert np.allclose(sample["height"][:, held], said["height"][:, held])
        assert bool((sample["height"][:, ~held] == 255).all())


def test_soft_labels_are_the_teachers_probabilities(pictures, tmp_path):
    """Of boundaries to a 510th, and their loss takes them; class maps keep their limits."""

    def some(pixels):
        return {task: values for task, values in teacher(pixels).items() if task in ("edge", "sal")}

    made = pseudo_label(some, pictures, tmp_path / "out", tasks="edge,sal", soft=True, negative=0.3, positive=0.7)
    assert (made.tasks, made.encodings) == ("edge,sal", "edge=grey,sal=classes")
    dataset = MultiTaskFolder(made.folder, made.tasks, encodings=made.encodings)
    for index, name in enumerate(("0.png", "2.jpg", "sub/1.png")):
        said = teacher(np.asarray(Image.open(pictures / name)))
        edge = dataset[index]["edge"][0].numpy()
        assert np.abs(edge - said["edge"]).max() < 0.5001 / 255
        assert len(np.unique(edge)) > 10
        assert set(np.unique(dataset[index]["sal"])) == {0, 1, 255}
    target = torch.as_tensor(edge)[None].double()
    logits = torch.randn(1, 1, *edge.shape, dtype=torch.float64)
    p = logits[0, 0].sigmoid()
    expected = -(0.95 * target[0] * p.log() + 0.05 * (1 - target[0]) * (1 - p).log()).mean()
    assert float(balanced_bce(logits, target)) == pytest.approx(float(expected), rel=1e-12)
    with pytest.raises(ValueError, match=r"with another .*soft"):
        pseudo_label(some, pictures, tmp_path / "out", tasks="edge,sal")


def test_soft_labels_of_several_boundaries(pictures, tmp_path):
    def cracks(pixels):
        ramp = np.linspace(0, 1, pixels.shape[1]) * np.ones((pixels.shape[0], 1))
        return {"crack": np.stack([ramp, 1 - ramp])}

    made = pseudo_label(cracks, pictures, tmp_path / "out", tasks="crack=2:boundary", soft=True)
    sample = MultiTaskFolder(made.folder, made.tasks, encodings=made.encodings or None)[0]["crack"]
    assert np.abs(sample.numpy() - cracks(np.zeros((12, 22, 3)))["crack"]).max() < 1e-6


def test_a_demt_model_labels_with_what_predict_gives(pictures, tmp_path):
    torch.manual_seed(0)
    model = demt.create_model("demt_nano", tasks={"semseg": 3, "sal": 2, "depth": 1, "normals": 3}).eval()
    logits = model(demt.preprocess(model, pictures / "0.png"))["semseg"].detach()
    chosen = torch.nn.functional.interpolate(logits.softmax(1), size=(12, 22), mode="bilinear")[0]
    said = demt.predict(model, pictures / "0.png")
    chosen = chosen.gather(0, torch.from_numpy(said["semseg"]).long()[None])
    middle = float(chosen.median())
    made = pseudo_label(model, pictures, tmp_path / "out", confidence=middle)
    dataset = MultiTaskFolder(made.folder, made.tasks, encodings=made.encodings)
    assert list(dataset.tasks) == ["semseg", "sal", "depth", "normals"]
    sample = dataset[0]
    expected = torch.where(chosen < middle, 255, torch.from_numpy(said["semseg"]))
    assert 0.3 < (expected == 255).float().mean() < 0.7
    # Rounding may fall to either side of the median itself.
    clear = (chosen - middle).abs() > 1e-6
    assert torch.equal(sample["semseg"].as_subclass(torch.Tensor)[clear], expected.to(torch.uint8)[clear])
    assert np.array_equal(sample["sal"][0] == 1, said["sal"] > 0.6)
    assert np.allclose(sample["depth"][0], np.where(said["depth"] > 0, said["depth"], 255))
    assert np.allclose(sample["normals"], said["normals"], atol=1e-3)


def test_size_writes_shrunken_copies_at_which_the_teacher_looks(pictures, tmp_path):
    Image.new("RGB", (8, 6), (0, 99, 0)).save(pictures / "small.jpg")
    seen = []

    def sizes(pixels):
        seen.append(pixels.shape)
        return {"edge": np.zeros(pixels.shape[:2])}

    made = pseudo_label(sizes, pictures, tmp_path / "out", tasks="edge", size=11)
    assert seen == [(6, 11, 3), (7, 11, 3), (6, 8, 3), (6, 11, 3)]
    images = MultiTaskFolder(made.folder, "edge", encodings="edge=values")
    assert [tuple(images[i]["image"].shape[1:]) for i in range(4)] == [shape[:2] for shape in seen]
    assert (made.folder / "images/small.jpg").read_bytes() == (pictures / "small.jpg").read_bytes()
    with pytest.raises(ValueError, match="was started with `size` 11, now None"):
        pseudo_label(sizes, pictures, tmp_path / "out", tasks="edge")


def test_a_second_teacher_adds_its_tasks_and_later_pictures_are_labelled(pictures, tmp_path):
    def first(pixels):
        return {"edge": teacher(pixels)["edge"]}

    def second(pixels):
        return {"sal": teacher(pixels)["sal"]}

    pseudo_label(first, pictures, tmp_path / "out", tasks="edge")
    before = contents(tmp_path / "out")
    made = pseudo_label(second, pictures, tmp_path / "out", tasks="sal")
    assert (made.tasks, made.encodings) == ("edge,sal", "edge=values,sal=classes")
    after = contents(tmp_path / "out")
    assert all(after[name] == content for name, content in before.items() if name != RECORD)
    assert len(MultiTaskFolder(made.folder, made.tasks, encodings=made.encodings)[1]) == 4
    with pytest.raises(ValueError, match=r"labels of 'sal' with another negative \(0.35, now 0.1\)"):
        pseudo_label(second, pictures, tmp_path / "out", tasks="sal", negative=0.1)
    with pytest.raises(ValueError, match=r"labels of 'sal' with another by"):
        pseudo_label(first, pictures, tmp_path / "out", tasks="sal")
    write_pictures(pictures, count=4)
    pseudo_label(second, pictures, tmp_path / "out", tasks="sal")
    assert (tmp_path / "out/sal/3.png").exists()


def label_and_die(pictures, out, count):
    """Label, and be killed before the file of number `count` is put in place."""
    usual, made = os.replace, []

    def replace(*paths):
        made.append(paths)
        if len(made) > count:
            die()
        usual(*paths)

    files.os.replace = replace
    pseudo_label(teacher, pictures, out, tasks=TASKS)


@pytest.mark.parametrize("count", [0, 1, 2, 12, 24])
def test_killed_and_repeated_gives_the_same_folder(pictures, tmp_path, count):
    """1 + 3 * 8 files are written: killed at the first one, after the record, within a picture, and at the last one."""
    pseudo_label(teacher, pictures, tmp_path / "whole", tasks=TASKS)
    whole = contents(tmp_path / "whole")
    assert len(whole) == 25
    assert finish(in_process(label_and_die, pictures, tmp_path / "out", count)) == -signal.SIGKILL
    half = contents(tmp_path / "out")
    assert len([name for name in half if not name.startswith(".")]) == count
    assert all(half[name] == whole[name] for name in half if not name.startswith("."))
    pseudo_label(teacher, pictures, tmp_path / "out", tasks=TASKS)
    assert contents(tmp_path / "out") == whole


def test_nothing_is_labelled_twice(pictures, tmp_path):
    calls = []

    def count(pixels):
        calls.append(1)
        return {"edge": np.zeros(pixels.shape[:2])}

    for _ in range(2):
        pseudo_label(count, pictures, tmp_path / "out", tasks="edge")
    assert len(calls) == 3


def one_line(*arguments):
    result = CliRunner().invoke(app, ["pseudo-label", *map(str, arguments)])
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


def test_command(pictures, tmp_path):
    demt.create_model("demt_nano", tasks={"edge": 1, "semseg": 3}).save_pretrained(tmp_path / "model")
    (pictures / "broken.jpg").write_bytes((pictures / "2.jpg").read_bytes()[:300])
    output = one_line(tmp_path / "model", pictures, tmp_path / "out")
    assert (
        f"3 pictures in {tmp_path / 'out'}; in a recipe: data.root={tmp_path / 'out'} data.tasks=edge,semseg=3"
        in output
    )
    assert "broken.jpg' cannot be read as an image" in output
    assert "1 of 4 images have no labels" in output
    assert "Traceback" not in output
    assert MultiTaskFolder(tmp_path / "out", "edge,semseg=3", encodings="edge=values").ids == ["0", "2", "sub/1"]
    (pictures / "broken.jpg").unlink()
    command = ["pseudo-label", *map(str, (tmp_path / "model", pictures, tmp_path / "out"))]
    assert CliRunner().invoke(app, command).exit_code == 0


def test_the_folder_is_found_whole_and_recognised(pictures, tmp_path):
    names = ("edge", "sal", "depth", "normals")

    def some(pixels):
        return {name: values for name, values in teacher(pixels).items() if name in names}

    made = pseudo_label(some, pictures, tmp_path / "out", tasks=",".join(names))
    report = check_folder(MultiTaskFolder(made.folder, made.tasks, encodings=made.encodings))
    assert report.problems == []
    found = propose(made.folder)
    assert set(found.tasks.split(",")) == set(made.tasks.split(","))
    assert set(found.encodings.split(",")) == set(made.encodings.split(","))


def test_errors_of_the_command(pictures, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("mine")
    nano = "demt_nano.rooms"
    assert "not a folder of pseudo-labels" in one_line(nano, pictures, tmp_path / "mine", "--tasks", "edge")
    assert "the teacher has ['semseg'" in one_line(nano, pictures, tmp_path / "out", "--tasks", "edges")
    assert "No folder" in one_line(nano, tmp_path / "nowhere", tmp_path / "out")
    assert "must not contain each other" in one_line(nano, pictures, pictures / "out")
    assert "`negative` <= `positive`" in one_line(nano, pictures, tmp_path / "out", "--negative", "0.9")
    assert "No ONNX file" in one_line("none.onnx", pictures, tmp_path / "out")
    (tmp_path / "mine" / RECORD).write_text(json.dumps({"size": None}))
    assert "is damaged" in one_line(nano, pictures, tmp_path / "mine")
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "mine/notes").read_text() == "mine"


@pytest.mark.parametrize(
    ("tasks", "maps", "message"),
    [
        ("edge", lambda size: {"edge": np.zeros((2, 3))}, r"of 'edge' to have the shape \(12, 22\), got \(2, 3\)"),
        (
            "edge",
            lambda size: {"edge": np.zeros(size), "rain": 0},
            r"maps of \['rain'\], but its `tasks`",
        ),
        ("edge,sal", lambda size: {"edge": np.zeros(size)}, r"no map of \['sal'\]"),
        ("sal", lambda size: {"sal": np.full(size, 7.0)}, r"probabilities in \[0, 1\] of 'sal', got 7 to 7"),
        ("semseg=3", lambda size: {"semseg": np.full(size, 3)}, "3 is not a class of 'semseg', which has 3 classes"),
        ("normals", lambda size: {"normals": np.zeros((*size, 3))}, r"shape \(3, 12, 22\), got \(12, 22, 3\)"),
    ],
)
def test_maps_of_which_no_labels_can_be_made(pictures, tmp_path, tasks, maps, message):
    with pytest.raises(TeacherError, match=message):
        pseudo_label(lambda pixels: maps(pixels.shape[:2]), pictures, tmp_path / "out", tasks=tasks)
    assert contents(tmp_path / "out").keys() == {RECORD}


def test_functions_say_what_they_give(pictures, tmp_path):
    with pytest.raises(ValueError, match="as `tasks`, such as"):
        pseudo_label(teacher, pictures, tmp_path / "out")
    with pytest.raises(ValueError, match="a model, its name, an ONNX file or a function, got int"):
        pseudo_label(3, pictures, tmp_path / "out")
