import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from demt.cli import app
from demt.metrics.functional import boundary_counts, boundary_scores, boundary_target
from tests.metrics import boundary_golden as golden

NAMES = ["small_curves", "random_dots", "thick"]


@pytest.fixture
def folders(tmp_path):
    predictions, truth = tmp_path / "predictions", tmp_path / "truth"
    predictions.mkdir()
    truth.mkdir()
    for name in NAMES:
        Image.fromarray(golden.load("inputs")[f"{name}.pred"]).save(predictions / f"{name}.png")
        Image.fromarray(golden.load("inputs")[f"{name}.gt"]).save(truth / f"{name}.png")
    return predictions, truth


def run(predictions, truth, *options, tolerance=("--dataset", "nyud"), jobs="1"):
    arguments = ["eval-boundary", str(predictions), str(truth), *tolerance, "--jobs", jobs, *options]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def report(folders, *options, **settings):
    out = folders[0].parent / "report.json"
    result = run(*folders, "--out", str(out), *options, **settings)
    assert result.exit_code == 0, result.output
    return json.loads(out.read_text()), result.output


def expected(mode, gt="raw", max_distance=0.011, names=NAMES):
    inputs = golden.load("inputs")
    counts = [
        boundary_counts(
            inputs[f"{name}.pred"],
            boundary_target(inputs[f"{name}.gt"], gt),
            max_distance=max_distance,
            thresholds=golden.load("counts")[f"thr.{mode}"],
            nms="seism" if mode == "seism" else None,
        )
        for name in names
    ]
    return boundary_scores(counts, golden.load("counts")[f"thr.{mode}"]).to_dict()


def test_scores_and_settings(folders):
    found, output = report(folders, "--gt", "raw")
    assert found["scores"] == pytest.approx(expected("bsds"), abs=1e-12)
    settings = found["settings"]
    assert settings.pop("backend") in ("numba", "numpy")
    assert settings == {
        "max_distance": 0.011,
        "nms": "none",
        "gt": "raw",
        "thresholds": 99,
        "interpolate": False,
        "images": 3,
    }
    assert f"{found['scores']['ods']:.4f}" in output
    assert "max_distance=0.011, nms=none, gt=raw, thresholds=99" in output
    assert [len(column) for column in found["curve"].values()] == [99] * 4
    assert max(found["curve"]["f"]) == found["scores"]["ods"]


def test_several_processes_give_the_same(folders):
    alone, together = (report(folders, "--backend", "numpy", jobs=jobs)[0] for jobs in ("1", "2"))
    assert alone == together


def test_seism_settings(folders):
    found, _ = report(folders, "--nms", "seism", "--gt", "seism", tolerance=("--max-distance", "0.0075"))
    assert found["settings"]["thresholds"] == 101
    assert found["scores"] == pytest.approx(expected("seism", "seism", 0.0075), abs=1e-12)


def test_thresholds_by_number(folders):
    found, _ = report(folders, "--thresholds", "3")
    assert found["curve"]["threshold"] == [0.25, 0.5, 0.75]


def test_forms_of_true_maps(folders):
    alone, _ = report(folders, "--gt", "raw")
    inputs = golden.load("inputs")
    Image.fromarray(inputs["thick.gt"] * np.uint8(255)).save(folders[1] / "thick.png")
    (folders[1] / "small_curves.png").unlink()
    np.save(folders[1] / "small_curves.npy", inputs["small_curves.gt"].astype(np.float32)[..., None])
    (folders[1] / "random_dots.png").unlink()
    np.save(folders[1] / "random_dots.npy", inputs["random_dots.gt"].astype(bool))
    (folders[1] / "notes.txt").write_text("not a map")
    assert report(folders, "--gt", "raw")[0] == alone


def test_missing_predictions(folders):
    (folders[0] / "thick.png").unlink()
    result = run(*folders)
    assert result.exit_code == 1
    assert "1 of 3 true maps have no prediction" in result.output
    assert "thick" in result.output
    found, _ = report(folders, "--allow-missing", "--gt", "raw")
    assert found["settings"]["images"] == 2
    assert found["scores"] == pytest.approx(expected("bsds", names=NAMES[:2]), abs=1e-12)


def test_predictions_without_a_true_map_are_left_out(folders):
    (folders[1] / "thick.png").unlink()
    assert report(folders, "--gt", "raw")[0]["settings"]["images"] == 2


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_file_of_another_size(folders, jobs):
    Image.fromarray(golden.load("inputs")["thick.pred"][:-1]).save(folders[0] / "thick.png")
    result = run(*folders, jobs=jobs)
    assert result.exit_code == 1
    assert "thick.png: expected the size of" in result.output
    assert "(120, 160) as (height, width), got (119, 160)" in result.output
    assert "Traceback" not in result.output


def test_files_that_cannot_be_read(folders):
    data = (folders[0] / "thick.png").read_bytes()
    for broken in (data[:200], b"", b"text"):
        (folders[0] / "thick.png").write_bytes(broken)
        result = run(*folders)
        assert result.exit_code == 1
        assert "thick.png: cannot be read as a picture" in result.output
    (folders[0] / "thick.png").write_bytes(data)
    (folders[1] / "thick.png").unlink()
    (folders[1] / "thick.npy").write_bytes(b"text")
    result = run(*folders)
    assert result.exit_code == 1
    assert "thick.npy: cannot be read as an array" in result.output


def test_pictures_of_another_kind(folders):
    grey = golden.load("inputs")["thick.pred"]
    for folder, kind in ((folders[0], "8-bit grey"), (folders[1], "one channel")):
        keep = (folder / "thick.png").read_bytes()
        Image.fromarray(np.stack([grey] * 3, -1)).save(folder / "thick.png")
        result = run(*folders)
        assert result.exit_code == 1
        assert "thick.png" in result.output
        assert kind in result.output
        (folder / "thick.png").write_bytes(keep)


def test_wrong_values_name_the_file(folders):
    Image.fromarray(golden.load("inputs")["thick.gt"] * np.uint8(7)).save(folders[1] / "thick.png")
    result = run(*folders, "--gt", "raw")
    assert result.exit_code == 1
    assert "thick.png: Expected `target`" in result.output
    assert "got 7" in result.output


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("gone", {}, "Expected a folder"),
        ("empty", {}, "No .png file"),
        ("other names", {}, "No file of"),
        ("twice", {}, "Two files of the same name"),
        (None, {"tolerance": ()}, "either --dataset"),
        (None, {"tolerance": ("--dataset", "nyud", "--max-distance", "0.1")}, "either --dataset"),
        (None, {"tolerance": ("--max-distance", "0")}, "positive fraction"),
        (None, {"tolerance": ("--dataset", "nyud", "--thresholds", "0")}, "--thresholds bsds, seism or a number"),
        (None, {"tolerance": ("--dataset", "nyud", "--out", "/no/such/folder/x.json")}, "folder of --out"),
    ],
)
def test_what_goes_wrong_before_the_images(folders, change, options, message):
    predictions, truth = folders
    if change == "gone":
        predictions = predictions / "gone"
    elif change == "twice":
        np.save(truth / "thick.npy", np.zeros((3, 3)))
    elif change:
        for path in list(predictions.iterdir()):
            path.rename(path.with_name(f"x{path.name}")) if change == "other names" else path.unlink()
    result = run(predictions, truth, **options)
    assert result.exit_code == 1
    assert message in result.output


def test_only_an_earlier_report_is_replaced(folders):
    out = folders[0].parent / "labels.json"
    out.write_text('{"label": 1}')
    result = run(*folders, "--out", str(out))
    assert result.exit_code == 1
    assert "not a report of this command" in result.stderr
    assert out.read_text() == '{"label": 1}'
    first, _ = report(folders)
    assert report(folders)[0] == first
