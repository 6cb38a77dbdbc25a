"""The doctor on whole data sets, and on copies of them that were damaged on purpose."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

from demt.data import DataError, MultiTaskFolder, SyntheticRooms
from demt.data.doctor.check import check_folder, check_published
from demt.data.doctor.recognise import find_layouts, propose, spread
from demt.data.doctor.sheet import contact_sheet, label_picture
from demt.data.published_layouts import LAYOUTS
from demt.data.tv_tensors import Depth, Label
from demt.tasks import DATASETS
from tests.data import writers
from tests.data.test_folder import own_data

SIZE, SPLITS = (38, 52), {"train": 3, "val": 2}
FORMS = [(name, layout.name) for name, layouts in LAYOUTS.items() for layout in layouts]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Every data set in every layout."""
    rooms = SyntheticRooms(size=SIZE, length=5, seed=12)
    folder = tmp_path_factory.mktemp("written")
    for name, layout in FORMS:
        rooms.write(folder / f"{name}_{layout}", name, layout, splits=SPLITS)
    return folder


@pytest.fixture
def copy(written, tmp_path, monkeypatch):
    """Copies one data set, and makes its small splits and images the published ones."""

    def copied(name, layout="atrc"):
        smaller = [dataclasses.replace(known, splits=SPLITS, size=known.size and SIZE) for known in LAYOUTS[name]]
        monkeypatch.setitem(LAYOUTS, name, tuple(smaller))
        return shutil.copytree(written / f"{name}_{layout}", tmp_path / "data")

    return copied


def check(root, **options):
    if (root / "pascal-context").exists():
        options["cache_dir"] = root.parent / "cache"
    return check_published(root, **options)


def found(report):
    return [(problem.kind, problem.task, problem.file) for problem in report.problems]


@pytest.mark.parametrize(("name", "layout"), FORMS)
def test_whole_data_sets(copy, name, layout):
    report = check(copy(name, layout))
    assert (report.dataset, report.layout) == (name, layout)
    assert report.problems == []
    assert report.notes == []
    assert {split: dataclasses.astuple(count) for split, count in report.splits.items()} == {
        split: (count, count, count, count) for split, count in SPLITS.items()
    }
    assert {task: values.files for task, values in report.values.items()} == dict.fromkeys(
        ["image", *DATASETS[name]], 5
    )


def test_values_are_those_of_the_files(copy):
    root = copy("nyud", "astmt")
    depth = np.concatenate([loadmat(path)["depth"].ravel() for path in (root / "depth").iterdir()])
    semseg = np.concatenate([loadmat(path)["segmentation"].ravel() for path in (root / "segmentation").iterdir()])
    edge = np.concatenate([np.array(Image.open(path)).ravel() for path in (root / "edge").iterdir()]) / 255
    values = check(root).values
    assert values["depth"].low == depth.min()
    assert values["depth"].high == depth.max()
    assert values["depth"].mean == pytest.approx(depth.mean(), rel=1e-6)
    assert values["edge"].mean == pytest.approx(edge.mean(), rel=1e-6)
    assert values["semseg"].classes[:40].tolist() == [(semseg == label + 1).sum() for label in range(40)]
    assert values["semseg"].pixels == values["semseg"].labelled == semseg.size
    assert 0.9 < values["normals"].mean < 1.1


def rewrite(path, change):
    """Change a picture or an array."""
    if path.suffix == ".npy":
        np.save(path, change(np.load(path)))
    else:
        Image.fromarray(change(np.array(Image.open(path)))).save(path)


def put(value):
    def change(values):
        values = values.copy()
        values[3, 5] = value
        return values

    return change


DAMAGES = {
    "missing": ("semseg", "segmentation/000000.png", lambda path: path.unlink(), "No file 'segmentation/000000.png'"),
    "truncated": ("image", "images/000001.png", lambda path: path.write_bytes(path.read_bytes()[:900]), "truncated"),
    "no picture": ("edge", "edge/000001.png", lambda path: path.write_text("<html>"), "it is not one of PNG, JPEG"),
    "bits": ("edge", "edge/000002.png", lambda path: rewrite(path, lambda v: v.astype(np.uint16)), "8 bits.*got 16"),
    "class": (
        "semseg",
        "segmentation/000002.png",
        lambda path: rewrite(path, put(41)),
        "stored value 41 is not a class",
    ),
    "size": ("normals", "normals/000003.png", lambda path: rewrite(path, lambda v: v[1:]), "is 37 x 52.*is 38 x 52"),
    "empty": ("depth", "depth/000003.npy", lambda path: path.write_bytes(b""), "'depth/000003.npy' is empty"),
    "nan": ("depth", "depth/000004.npy", lambda path: rewrite(path, put(np.nan)), "label nan of task 'depth'"),
    "negative": ("depth", "depth/000000.npy", lambda path: rewrite(path, put(-1)), "label -1 of task 'depth'"),
    "colours": (
        "semseg",
        "segmentation/000003.png",
        lambda path: rewrite(path, lambda v: np.stack([v] * 3, -1)),
        "38, 52, 3",
    ),
}
KINDS = {"missing": "missing", "size": "size", "empty": "empty"}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files(copy, name):
    root = copy("nyud")
    task, file, damage, message = DAMAGES[name]
    damage(root / file)
    report = check(root)
    assert found(report) == [(KINDS.get(name, "invalid"), task, file)]
    (problem,) = report.problems
    assert re.search(message, problem.message)
    assert str(root) not in problem.message
    assert (problem.id, problem.split) == (file[-10:-4], "train" if file[-5] < "3" else "val")
    assert sum(split.whole for split in report.splits.values()) == 4


def test_all_damages_at_once(copy):
    root = copy("nyud")
    for _, file, damage, _ in DAMAGES.values():
        damage(root / file)
    report = check(root)
    assert sorted(file for _, _, file in found(report)) == sorted(file for _, file, _, _ in DAMAGES.values())
    assert [split.whole for split in report.splits.values()] == [0, 0]
    assert json.loads(json.dumps(report.to_dict()))["problems"][0]["message"] == report.problems[0].message


def test_images_of_another_size_than_the_layout_has(copy):
    root = copy("nyud")
    for path in root.rglob("000001.*"):
        rewrite(path, lambda values: values[:20])
    assert found(check(root)) == [("size", "image", "images/000001.png")]


def test_matlab_files(copy):
    root = copy("pascal")
    for name, contents in {
        "human_parts/000000": b"text",
        "pascal-context/trainval/000001": (root / "pascal-context/trainval/000001.mat").read_bytes()[:200],
    }.items():
        (root / f"{name}.mat").write_bytes(contents)
    savemat(root / "human_parts/000002.mat", {"other": 1})
    report = check(root)
    # The boundaries and the normals of a sample come from one file, which is one problem.
    assert [(problem.task, problem.file) for problem in report.problems] == [
        ("human_parts", "human_parts/000000.mat"),
        ("normals", "normals_distill/000001.png"),
        ("human_parts", "human_parts/000002.mat"),
    ]
    assert "pascal-context/trainval/000001.mat' cannot be read as a MATLAB file" in report.problems[1].message


@pytest.mark.parametrize(
    ("layout", "swap", "tasks"),
    [
        ("atrc", ("segmentation", "edge"), ["semseg", "edge"]),
        ("atrc", ("images", "normals"), ["normals"]),
        ("vandenhende", ("depth", "edge"), ["edge", "depth"]),
        ("vandenhende", ("depth", "normals"), ["depth", "normals"]),
        ("astmt", ("images", "normals"), ["normals"]),
        ("astmt", ("depth", "segmentation"), ["semseg", "depth"]),
    ],
)
def test_swapped_folders(copy, layout, swap, tasks):
    root = copy("nyud", layout)
    first, second = swap
    (root / first).rename(root / "x")
    (root / second).rename(root / first)
    (root / "x").rename(root / second)
    named = {problem.task for problem in check(root).problems}
    assert named
    assert named <= set(tasks)


def test_implausible_values(copy):
    root = copy("nyud")
    for path in (root / "depth").iterdir():
        rewrite(path, lambda values: values * 1000)
    for path in (root / "segmentation").iterdir():
        rewrite(path, lambda values: np.full_like(values, 3))
    messages = {problem.task: problem.message for problem in check(root).problems}
    assert messages.keys() == {"depth", "semseg"}
    assert "millimetres?" in messages["depth"]
    assert "are class 2 (cabinet)" in messages["semseg"]


def test_images_without_people_are_no_fault_unless_all_are(copy):
    root = copy("pascal")
    nobody = [path.stem for path in (root / "human_parts").iterdir() if not _has_parts(path)]
    assert nobody
    (root / "ImageSets/Context/val.txt").write_text("\n".join(nobody[:2]))
    report = check(root, splits=["val"], subset=True)
    assert report.values["human_parts"].labelled == 0
    assert report.problems == []
    report.values["human_parts"].files = 50
    report.add_plausibility()
    assert [problem.message for problem in report.problems] == ["human_parts: no pixel has a label in 50 files"]


def _has_parts(path):
    people = loadmat(path)["anno"][0, 0]["objects"][0]
    return any(item["class_ind"] == 15 and item["parts"].size for item in people)


def test_lists(copy):
    root = copy("nyud")
    (root / "gt_sets/train.txt").write_text("000000\n000003\n")
    report = check(root)
    assert [problem.message for problem in report.problems] == [
        "train has 2 samples, but the published one has 3",
        "train and val share 1 of their samples, e.g. '000003'",
    ]
    (root / "gt_sets/train.txt").write_text("000000\n000000\n")
    (root / "gt_sets/val.txt").unlink()
    report = check(root)
    assert [(problem.kind, problem.split) for problem in report.problems] == [("split", "train"), ("split", "val")]
    assert "'gt_sets/train.txt' lists the id '000000' twice" in report.problems[0].message
    assert report.datasets == {}


def test_parts(copy):
    root = copy("nyud")
    (root / "gt_sets/val.txt").unlink()
    (root / "gt_sets/train.txt").write_text("000000\n000001\n")
    shutil.rmtree(root / "normals")
    assert found(check(root, splits=["train"], subset=True)) == [
        ("missing", "normals", f"normals/00000{k}.png") for k in range(2)
    ]
    assert check(root, splits=["train"], tasks=["semseg", "depth"], subset=True).problems == []


def test_images_that_only_labels_tell_of(copy):
    root = copy("cityscapes", "raw")
    path = next((root / "leftImg8bit/train").rglob("*.png"))
    path.unlink()
    assert found(check(root)) == [("split", None, None), ("missing", "image", path.relative_to(root).as_posix())]


def test_samples(copy):
    root = copy("nyud")
    (root / "depth/000002.npy").write_bytes(b"x")
    (root / "depth/000001.npy").unlink()
    (root / "edge/000004.png").write_bytes(b"")
    report = check(root, sample=1)
    assert [split.opened for split in report.splits.values()] == [1, 1]
    # All files are looked for; those of 000002 are not opened.
    assert found(report) == [("missing", "depth", "depth/000001.npy"), ("empty", "edge", "edge/000004.png")]
    assert spread("abcdefg", 3) == ["a", "c", "e"]
    assert spread("ab", 3) == spread("ab", None) == ["a", "b"]


def test_any_number_of_processes_finds_the_same(tmp_path):
    writers.nyud(tmp_path, "astmt", ids=[f"{k:03d}" for k in range(80)], size=(8, 9))
    (tmp_path / "depth/033.mat").write_bytes(b"x")
    reports = [check(tmp_path, splits=["val"], workers=workers).to_dict() for workers in (0, 2)]
    assert reports[0] == reports[1]
    assert "depth/033.mat" in [problem["file"] for problem in reports[0]["problems"]]


@pytest.mark.parametrize("gone", ["images", "segmentation", "depth", "normals", "edge"])
def test_the_layout_is_found_though_a_folder_is_missing(copy, gone):
    root = copy("nyud", "atrc")
    shutil.rmtree(root / gone)
    report = check(root)
    assert report.layout == "atrc"
    assert [(problem.kind, problem.file.split("/")[0]) for problem in report.problems] == [("missing", gone)] * 5


def test_layouts_that_are_not_there(copy, tmp_path):
    root = copy("nyud")
    with pytest.raises(DataError, match=r"no known layout.*\['data'\] inside it has one"):
        check(tmp_path)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="no known layout"):
        check(tmp_path / "nothing")
    with pytest.raises(DataError, match="no known layout"):
        check(root, dataset="pascal")
    with pytest.raises(ValueError, match=r"\['nyud', 'pascal', 'cityscapes'\], got 'kitti'"):
        check(root, dataset="kitti")
    with pytest.raises(ValueError, match=r"splits of .*'test'"):
        check(root, splits=["test"])
    with pytest.raises(FileNotFoundError, match="demt data unpack"):
        check(root / "images/000000.png")
    # Folders of images, depth and normals alone may be anybody's.
    shutil.rmtree(root / "gt_sets")
    shutil.rmtree(root / "segmentation")
    assert find_layouts(root) == []


def test_two_layouts_in_one_folder(copy, written):
    root = copy("cityscapes", "mtan_7")
    shutil.copytree(written / "cityscapes_mtan_19", root, dirs_exist_ok=True)
    report = check(root)
    assert report.layout == "mtan_7"
    assert "also fits the layouts ['mtan_19']" in report.notes[0]
    assert check(root, layout="mtan_19").layout == "mtan_19"


def test_a_data_set_is_only_read(copy, monkeypatch):
    root = copy("pascal")
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for folder in folders:
        folder.chmod(0o500)
    try:
        report = check(root)
        contact_sheet(report.datasets, "x")
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert report.problems == []
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


TASKS, ENCODINGS = {"semseg": 4, "depth": 1, "normals": 3}, {"depth": "millimetres", "normals": "rgb_normals"}


def test_own_data(tmp_path):
    own_data(tmp_path, unlabelled={("a", "depth"), ("a", "semseg")})
    for path in (tmp_path / "normals").rglob("*.png"):
        writers.picture(path, np.full((*writers.SIZE, 3), (128, 128, 255), np.uint8))
    report = check_folder(MultiTaskFolder(tmp_path, TASKS, encodings=ENCODINGS))
    assert report.problems == []
    assert {task: values.files for task, values in report.values.items()} == {
        "image": 3,
        "semseg": 2,
        "depth": 2,
        "normals": 3,
    }
    writers.picture(tmp_path / "depth/d.png", np.zeros(writers.SIZE, np.uint16))
    writers.picture(tmp_path / "semseg/b.png", np.full(writers.SIZE, 9, np.uint8))
    writers.picture(tmp_path / "images/e.png", writers.smooth_image(np.random.default_rng(0)))
    report = check_folder(MultiTaskFolder(tmp_path, TASKS, encodings=ENCODINGS))
    assert found(report) == [("missing", "image", "depth/d.png"), ("invalid", "semseg", "semseg/b.png")]
    assert report.notes == ["1 of 4 images have no label of any of the tasks"]


def test_own_data_with_an_index_outside_its_folder(tmp_path):
    own_data(tmp_path / "files", names=["a"])
    (tmp_path / "lists").mkdir()
    file = tmp_path / "files/images/a.png"
    writers.lines(tmp_path / "lists/index.csv", ["image,semseg", f"{file},{tmp_path / 'gone.png'}"])
    report = check_folder(MultiTaskFolder(tmp_path / "lists", {"semseg": 4}, index="index.csv"))
    assert found(report) == [("missing", "semseg", str(tmp_path / "gone.png"))]


def test_what_own_data_may_be(tmp_path):
    own_data(tmp_path)
    writers.picture(tmp_path / "sal/a.png", np.zeros(writers.SIZE, np.uint8))
    writers.array(tmp_path / "edge/a.npy", np.zeros(writers.SIZE))
    for name, values in {
        "defect": np.tile(np.uint8([0, 3]), (24, 16)),
        "mask": np.tile(np.uint8([0, 255]), (24, 16)),
        "height": np.linspace(0, 9, 24 * 32).reshape(writers.SIZE),
        "tilt": np.tile(np.uint8([128, 128, 255]), (*writers.SIZE, 1)),
        "colours": np.tile(np.uint8([[[0, 0, 0], [90, 0, 0]]]), (24, 16, 1)),
    }.items():
        (writers.array if name == "height" else writers.picture)(
            tmp_path / name / ("a.npy" if name == "height" else "a.png"), values
        )
    writers.picture(tmp_path / "figures/other.png", np.zeros(writers.SIZE, np.uint8))
    proposal = propose(tmp_path)
    assert proposal.tasks == (
        "semseg=4,sal,normals,depth,edge,"
        "colours=2:classes,defect=4:classes,height=1:values,mask=2:classes,tilt=3:normals"
    )
    assert proposal.encodings == "sal=mask,normals=rgb_normals,depth=millimetres,mask=mask,tilt=rgb_normals"
    assert proposal.questions == ["colours: colours (2 in one file): declare Encoding(colors=...) in Python"]
    assert proposal.command("d") == f"demt data check d --tasks {proposal.tasks} --encodings {proposal.encodings}"
    # What is proposed can be read.
    data = MultiTaskFolder(tmp_path, proposal.tasks, encodings=proposal.encodings)
    assert data.tasks["height"].metric == "rmse"
    assert data.tasks["defect"].activation == "argmax"
    shutil.rmtree(tmp_path / "images")
    assert propose(tmp_path) is None


def test_sheet(copy):
    root = copy("nyud", "vandenhende")
    whole = contact_sheet(check(root).datasets, "Title", rows=3)
    assert whole.size == (10 + 5 * 242, 66 + 3 * (170 + 30))
    (root / "depth/000000.npy").write_bytes(b"")
    damaged = contact_sheet(check(root).datasets, "Title", rows=3)
    rows, columns = (np.array(whole) != np.array(damaged)).any(2).nonzero()
    # Only the cell of that file differs.
    assert (rows.min() >= 66) & (rows.max() < 66 + 200)
    assert (columns.min() >= 10 + 2 * 242) & (columns.max() < 10 + 3 * 242)


def test_pictures_of_labels():
    task = DATASETS["nyud"]["semseg"]
    classes = np.full((1, 174, 232), 7, np.uint8)
    classes[:, :87] = 255
    classes[:, :, 116:] = 0
    picture, words = label_picture(Label(torch.from_numpy(classes)), task)
    pixels = np.array(picture)
    assert (pixels[87:, 116:] == task.palette[0]).all()
    assert (pixels[87:, :116] == task.palette[7]).all()
    assert {tuple(color) for color in pixels[:80, :110].reshape(-1, 3)} == {(150,) * 3, (225,) * 3}
    assert words == f"wall, {task.classes[7]}"
    depth = np.full((1, 10, 10), 255, np.float32)
    assert label_picture(Depth(torch.from_numpy(depth)), DATASETS["nyud"]["depth"])[1] == "no pixel has a label"
    depth[0, 0, :2] = 2, 4
    assert label_picture(Depth(torch.from_numpy(depth)), DATASETS["nyud"]["depth"])[1] == "2 m to 4 m"
