"""From files through workers and batches to losses and metrics."""

import multiprocessing
import os
import pickle
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from demt.data import (
    Cityscapes,
    DataError,
    MultiTaskDataset,
    MultiTaskFolder,
    NYUDv2,
    PASCALContext,
    collate,
    transforms,
)
from demt.losses import MultiTaskLoss
from demt.metrics import MultiTaskMetrics
from demt.tasks import resolve_tasks
from tests.data import writers
from tests.data.test_folder import ENCODINGS, TASKS, own_data


def perfect(batch, tasks):
    """Logits whose prediction is the label."""
    outputs = {}
    for name, task in tasks.items():
        target = batch[name].float()
        known = torch.where(target == 255, 0, target)
        if task.activation in ("argmax", "foreground"):
            outputs[name] = 50 * torch.nn.functional.one_hot(known[:, 0].long(), task.channels).movedim(-1, 1).float()
        else:
            outputs[name] = (known * 2 - 1) * 50 if task.activation == "sigmoid" else known
    return outputs


def run(dataset, name):
    """Losses and metrics of perfect predictions on a batch."""
    batch = dataset.collate([dataset[k] for k in range(3)])
    assert batch["image"].dtype == torch.float32
    outputs = perfect(batch, dataset.tasks)
    result = MultiTaskLoss(dataset.tasks)(outputs, batch)
    metrics = MultiTaskMetrics(dataset.tasks, dataset=name)
    metrics.update(outputs, batch)
    return result, metrics.compute()


def test_nyud_fits_losses_and_metrics(tmp_path):
    writers.nyud(tmp_path, "atrc")
    transform = transforms.eval_transform("nyud", size=(32, 48))
    result, scores = run(NYUDv2(tmp_path, "val", transform=transform), "nyud")
    assert all(count > 0 for count in result.labelled.values())
    assert result.labelled["edge"] == 3 * 24 * 32
    assert scores["semseg/miou"] == 1
    assert scores["depth/rmse"] == 0
    assert result.parts["edge"] < 1e-6
    assert scores["normals/mean"] < 0.05
    assert 0 < scores["edge/odsF"] <= 1


def test_pascal_fits_losses_and_metrics(tmp_path):
    writers.pascal(tmp_path / "data")
    transform = transforms.eval_transform("pascal", size=(32, 48))
    dataset = PASCALContext(tmp_path / "data", "val", transform=transform, cache_dir=tmp_path / "cache")
    result, scores = run(dataset, "pascal")
    # Only the first image has parts; each has 1440 pixels with padding, 768 without.
    assert result.labelled["human_parts"] == result.labelled["sal"] / 3 == 24 * 32
    assert scores["human_parts/miou"] == pytest.approx(4 / 7)  # classes 0, 1, 4 and 6 of 7 are there
    assert scores["sal/maxf"] == 1


def test_cityscapes_fits_losses_and_metrics(tmp_path):
    writers.cityscapes(tmp_path)
    dataset = Cityscapes(tmp_path, transform=transforms.eval_transform("cityscapes", size=(12, 16)))
    batch = dataset.collate([dataset[0], dataset[1]])
    assert (batch["image"].shape[-1], batch["depth"].shape[-1]) == (16, 32)
    result, scores = run(dataset, "cityscapes")
    assert result.total.isfinite()
    assert scores["semseg/miou"] == 1


def test_own_partial_labels_fit_losses_and_metrics(tmp_path):
    own_data(tmp_path, unlabelled={("a", "depth"), ("b", "semseg")})
    dataset = MultiTaskFolder(tmp_path, TASKS, encodings=ENCODINGS, transform=transforms.train_transform(size=(24, 24)))
    result, scores = run(dataset, None)
    assert all(count > 0 for count in result.labelled.values())
    assert scores["depth/rmse"] == 0


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_what_one_process_gives(tmp_path, method):
    writers.nyud(tmp_path, "astmt", ids=[str(k) for k in range(5)])
    dataset = NYUDv2(tmp_path, "val", transform=transforms.eval_transform("nyud", size=(24, 32)))
    dataset = pickle.loads(pickle.dumps(dataset))
    loader = DataLoader(
        dataset, batch_size=2, num_workers=2, collate_fn=dataset.collate, multiprocessing_context=method
    )
    batches = list(loader)
    assert [id for batch in batches for id in batch["id"]] == dataset.ids
    for name in ("image", *dataset.tasks):
        alone = torch.stack([sample[name].as_subclass(torch.Tensor) for sample in dataset])
        assert torch.equal(torch.cat([batch[name] for batch in batches]), alone)
        assert type(batches[0][name]) is torch.Tensor


def test_errors_come_out_of_workers(tmp_path):
    writers.nyud(tmp_path, "atrc")
    (tmp_path / "depth/0002.npy").unlink()
    dataset = NYUDv2(tmp_path, "val")
    with pytest.raises(DataError, match=r"No file .*depth/0002\.npy"):
        list(DataLoader(dataset, batch_size=None, num_workers=1))
    (tmp_path / "depth/0002.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"depth/0002\.npy"):
        list(DataLoader(dataset, batch_size=None, num_workers=1))


class Killed(MultiTaskDataset):
    """A data set whose worker is killed from outside at the third sample, as the kernel does when memory runs out."""

    def read(self, index):
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"image": tv_tensors.Image(torch.zeros(3, 4, 4, dtype=torch.uint8)), "id": self.ids[index]}


def consume(on_error, seen):
    """Read all batches of `Killed`, and write the ids that come to a file."""
    dataset = Killed([str(k) for k in range(6)], resolve_tasks({"sal": 2}), on_error=on_error)
    for batch in DataLoader(dataset, num_workers=1, collate_fn=dataset.collate):
        assert (batch["sal"] == 255).all()
        seen.write_text(seen.read_text() + batch["id"][0])


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_killed_worker_is_an_error(tmp_path, on_error, capfd):
    seen = tmp_path / "seen.txt"
    seen.write_text("")
    # In a process of its own: torch raises out of a signal handler, which may run anywhere.
    process = multiprocessing.get_context("fork").Process(target=consume, args=(on_error, seen))
    process.start()
    process.join(120)
    # Mostly "DataLoader worker is killed by signal"; a broken connection where a sample was under way.
    assert process.exitcode == 1
    assert "Traceback" in capfd.readouterr().err
    assert seen.read_text() in ("", "0", "01")


def test_augmentation_differs_between_samples_and_repeats_under_a_seed(tmp_path):
    writers.nyud(tmp_path, "atrc", ids=["1", "2"])
    dataset = NYUDv2(tmp_path, "val", tasks=["depth"], transform=transforms.train_transform("nyud", size=(24, 24)))

    def epoch(seed):
        generator = torch.Generator().manual_seed(seed)
        loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=dataset.collate, generator=generator)
        return torch.cat([batch["depth"] for batch in loader])

    assert torch.equal(epoch(0), epoch(0))
    assert not torch.equal(epoch(0), epoch(1))


def test_collate():
    tasks = resolve_tasks({"semseg": 4, "normals": 3})
    first = {"image": torch.zeros(3, 4, 5), "normals": torch.zeros(3, 4, 5), "id": "a", "note": 3}
    second = {"image": torch.zeros(3, 4, 5), "id": "b"}
    batch = collate([first, second], tasks)
    assert batch["normals"][:, 0, 0, 0].tolist() == [0, 255]
    assert (batch["semseg"].shape, batch["semseg"].dtype) == ((2, 1, 4, 5), torch.uint8)
    assert batch["id"] == ["a", "b"]
    assert batch["note"] == [3, None]
    assert "semseg" not in collate([first, second])
    with pytest.raises(ValueError, match=r"maps 'image' of one shape.*\(3, 4, 5\) \(a\), \(3, 4, 6\) \(c\)"):
        collate([first, {"image": torch.zeros(3, 4, 6), "id": "c"}])


def test_indices(tmp_path):
    writers.nyud(tmp_path, "atrc")
    dataset = NYUDv2(tmp_path, "val")
    assert len(dataset) == 3
    assert dataset[-1]["id"] == dataset.ids[-1]
    assert len(list(dataset)) == 3
    for index in (3, -4):
        with pytest.raises(IndexError):
            dataset[index]
    assert repr(dataset) == "NYUDv2(3 samples, tasks semseg, depth, normals, edge)"
    assert np.array_equal(dataset[np.int64(1)]["image"], dataset[1]["image"])
