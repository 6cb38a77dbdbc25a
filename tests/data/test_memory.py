"""Samples are read once; transforms are applied anew, and what they do to a sample stays out of the memory."""

import pytest
import torch
from torchvision.transforms import v2

from demt.data import DataError, InMemory, SyntheticRooms
from demt.data.transforms import eval_transform


class Counted(SyntheticRooms):
    reads = 0

    def read(self, index):
        self.reads += 1
        return super().read(index)


def test_samples_are_read_once_and_are_the_same():
    rooms = Counted((24, 32), 3, transform=eval_transform())
    kept = InMemory(rooms)
    assert (len(kept), kept.ids, kept.tasks) == (3, rooms.ids, rooms.tasks)
    for _ in range(3):
        for index in range(3):
            ours, theirs = kept[index], SyntheticRooms((24, 32), 3, transform=eval_transform())[index]
            assert list(ours) == list(theirs)
            for name in kept.tasks:
                assert type(ours[name]) is type(theirs[name])
                assert torch.equal(ours[name], theirs[name])
            assert torch.equal(ours["image"], theirs["image"])
    assert rooms.reads == 3


def test_transforms_are_drawn_anew():
    kept = InMemory(SyntheticRooms((24, 32), 1), v2.RandomHorizontalFlip(0.5))
    torch.manual_seed(0)
    seen = {tuple(kept[0]["depth"].flatten().tolist()) for _ in range(20)}
    assert len(seen) == 2


def test_a_transform_that_changes_its_sample_does_not_change_the_memory():
    def drop(sample):
        del sample["depth"]
        return sample

    kept = InMemory(SyntheticRooms((24, 32), 1), drop)
    assert "depth" not in kept[0]
    assert "depth" in kept.read(0)


def test_broken_samples_are_skipped_as_the_data_set_does():
    class Broken(SyntheticRooms):
        def read(self, index):
            if index == 0:
                raise DataError("cut short")
            return super().read(index)

    with pytest.raises(DataError, match="cut short"):
        InMemory(Broken((24, 32), 2))[0]
    broken = Broken((24, 32), 2)
    broken.on_error = "skip"
    kept = InMemory(broken)
    with pytest.warns(RuntimeWarning, match="cut short"):
        assert kept[0]["id"] == "0-000001"
    assert kept.skipped == {"0-000000": "cut short"}
