"""A run never loses work: its folder is locked, damaged checkpoints are passed over, only its own are deleted."""

import json
import os
import signal

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from torch.utils.data import Subset

from demt.data import SyntheticRooms
from demt.data.transforms import eval_transform, train_transform
from demt.train import loop, report, train
from demt.train.checkpoints import PROGRESS, Checkpoints
from tests.train.worker import finish, in_process, quiet, run, tiny


def fill(folder):
    (folder / "weights").write_text("weights")
    report.write_state(folder / "state", {"model": {"weight": torch.ones(2)}})


@pytest.fixture
def points(tmp_path):
    """Three checkpoints, of which two stay."""
    made = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        made.write(step, fill, {"step": step})
    return made


def test_a_locked_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run/.lock"), pytest.raises(ValueError, match="in use: another process trains there"):
        run(tiny(tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.parametrize("damage", ["cut", "lost", "outline"])
def test_a_damaged_checkpoint_is_passed_over(points, caplog, damage):
    file = points.folder / "step_0000003/state" / ("state.json" if damage == "outline" else "state.safetensors")
    if damage == "lost":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-1] if damage == "cut" else b"x" * len(content))
    path, progress, state = points.resume()
    assert (path.name, progress["step"], state["model"]["weight"].tolist()) == ("step_0000002", 2, [1, 1])
    assert (points.folder / "step_0000003.damaged").is_dir()
    assert "Damaged checkpoint" in caplog.text
    (points.folder / "step_0000002/progress.json").write_text("{")
    with pytest.raises(ValueError, match=r"No checkpoint in .* is complete"):
        points.resume()


def test_only_recorded_checkpoints_are_deleted(points):
    (points.folder / "step_0000000").mkdir()
    (points.folder / "step_0000002_keep").mkdir()
    again = Checkpoints(points.run, keep=1)
    again.resume()
    again.write(4, fill, {"step": 4})
    assert sorted(path.name for path in points.folder.iterdir()) == [
        "step_0000000",
        "step_0000002_keep",
        "step_0000004",
    ]


def test_an_edited_record_cannot_name_other_folders(points):
    theirs = points.folder.parent / "theirs"
    theirs.mkdir()
    record = points.folder / "step_0000003" / PROGRESS
    progress = json.loads(record.read_text())
    record.write_text(json.dumps({**progress, "made": [f"../{theirs.name}", "..", 7, *progress["made"]]}))
    again = Checkpoints(points.run, keep=1)
    again.resume()
    again.write(4, fill, {"step": 4})
    assert theirs.is_dir()
    assert [path.name for path in points.folder.iterdir()] == ["step_0000004"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    usual = loop._step

    def step(run, batches, number, window):
        usual(run, batches, number, window)
        if number == 2:
            with torch.no_grad():
                next(run.plain.parameters()).fill_(torch.nan)

    monkeypatch.setattr(loop, "_step", step)
    with pytest.raises(ValueError, match="After step 3 not all weights are finite"):
        run(tiny(tmp_path / "run", "save_every=1", "keep=1"))
    for path in (tmp_path / "run/checkpoints/step_0000002", tmp_path / "run/last"):
        assert all(value.isfinite().all() for value in load_file(path / "model.safetensors").values())


def test_changed_settings_on_resume(tmp_path, caplog):
    run(tiny(tmp_path / "run", "steps=2"))
    changes = ["steps=3", "best=depth/rmse", "keep=1", "eval_every=1", "data.in_memory=true"]
    trained = run(tiny(tmp_path / "run", *changes), resume=True)
    assert "`best` is now depth/rmse" in caplog.text
    assert "`steps` is now 3" in caplog.text
    progress = Checkpoints(tmp_path / "run").read_progress(tmp_path / "run/checkpoints/step_0000003")
    assert (progress["step"], progress["best"]) == (3, trained.results["depth/rmse"])


class Unequal(SyntheticRooms):
    """Rooms each of which is narrower than the one before."""

    def read(self, index):
        width = 64 - 8 * index
        return {name: v if name == "id" else v[..., :width] for name, v in super().read(index).items()}


def test_evaluation_images_of_unequal_sizes(tmp_path):
    val = Unequal((48, 64), 3, tasks=["semseg", "normals", "depth"], transform=eval_transform())
    found = [
        run(
            tiny(tmp_path / str(size), "steps=1", "optim.warmup=0", f"data.eval_batch_size={size}"), val_set=val
        ).results
        for size in (1, 3)
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_parts_of_a_data_set(tmp_path, caplog):
    whole = SyntheticRooms((48, 64), 6, tasks=["semseg", "normals", "depth"], transform=train_transform(size=(48, 64)))
    one, two = torch.utils.data.random_split(whole, [4, 2])
    run(tiny(tmp_path / "parts", "steps=1", "optim.warmup=0"), train_set=one, val_set=Subset(two, [0]))
    assert "share its transform" not in caplog.text
    run(tiny(tmp_path / "halves", "steps=1", "optim.warmup=0"), train_set=one, val_set=two)
    assert "share its transform" in caplog.text
    with pytest.raises(ValueError, match="got list"):
        run(tiny(tmp_path / "list"), train_set=[1], val_set=two)


class Deadly(SyntheticRooms):
    """Rooms that kill the worker that reads them."""

    def read(self, index):
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


def train_with_a_killed_worker(recipe, report):
    data = Deadly((48, 64), 4, tasks=["semseg", "normals", "depth"], transform=eval_transform())
    try:
        train(recipe, train_set=data, val_set=data, console=quiet())
    except OSError as error:
        report.write_text(str(error))


def test_a_killed_data_worker_is_one_line(tmp_path):
    recipe = tiny(tmp_path / "run", "data.workers=1")
    assert finish(in_process(train_with_a_killed_worker, recipe, tmp_path / "report")) == 0
    message = (tmp_path / "report").read_text()
    assert message.startswith("A process that reads data was killed")
    assert "\n" not in message
