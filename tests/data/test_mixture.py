"""Mixtures: every batch has its share of each source, every sample comes once an epoch, labels stay what they are."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from demt.data import InMemory, Mixture, MultiTaskDataset, SyntheticRooms, as_multitask, summary
from demt.data.mixture import draw_order, epoch_length
from demt.tasks import Task, resolve_tasks


class Plain(MultiTaskDataset):
    """Samples whose pixels are their number, labelled for some tasks."""

    def __init__(self, length, tasks, start=0, size=(4, 5), **options):
        super().__init__([str(start + i) for i in range(length)], resolve_tasks(tasks), **options)
        self.size = size

    def read(self, index):
        image = torch.full((3, *self.size), int(self.ids[index]), dtype=torch.uint8)
        labels = {name: torch.full((1, *self.size), 1.0) for name in self.tasks}
        return {"image": image, **labels, "id": self.ids[index]}


def mixed(*weights, lengths=(7, 5, 3)):
    tasks = [{"depth": 1}, {"edge": 1}, {"height": Task(name="height", channels=1)}]
    sources = [Plain(length, task, 100 * i) for i, (length, task) in enumerate(zip(lengths, tasks))]
    return Mixture(list(zip(sources, weights)))


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ((1, 1), [1, 1]),
        ((0.5, 0.25, 0.25), [2, 1, 1]),
        ((0.7, 0.2, 0.1), [7, 2, 1]),
        ((1 / 3, 2 / 3), [1, 2]),
        ((0.3333, 0.6667), [1, 2]),
        ((300, 100), [3, 1]),
        ((1e-9, 1), [1, 5000]),
    ],
)
def test_weights_become_small_whole_numbers(weights, shares):
    assert mixed(*weights).shares == shares


@pytest.mark.parametrize(
    ("weights", "batch"), [((1, 1), 2), ((3, 1), 8), ((0.5, 0.25, 0.25), 4), ((0.7, 0.2, 0.1), 10)]
)
def test_each_batch_has_whole_shares_where_it_can(weights, batch):
    dataset = mixed(*weights)
    drawn = [dataset._place(index)[0] for index in draw_order(dataset, range(20 * batch), 0)]
    wanted = [Fraction(share * batch, sum(dataset.shares)) for share in dataset.shares]
    for start in range(0, len(drawn), batch):
        counted = Counter(drawn[start : start + batch])
        assert [counted[source] for source in range(len(weights))] == wanted


@pytest.mark.parametrize("weights", [(3, 2), (0.61, 0.27, 0.12)])
def test_other_batches_are_at_most_one_sample_away(weights):
    dataset = mixed(*weights)
    drawn = np.array([dataset._place(index)[0] for index in draw_order(dataset, range(999), 0)])
    for source, share in enumerate(dataset.shares):
        counted = np.cumsum(drawn == source)
        assert np.abs(counted - np.arange(1, 1000) * share / sum(dataset.shares)).max() <= 1


def test_every_sample_of_a_source_comes_once_an_epoch_and_in_another_order():
    dataset = mixed(2, 1)
    drawn = list(draw_order(dataset, range(42), 3))
    first = [index for index in drawn if index < 7]
    assert [sorted(first[start : start + 7]) for start in (0, 7, 14, 21)] == [list(range(7))] * 4
    assert first[:7] != first[7:14]
    second = [index - 7 for index in drawn if index >= 7]
    assert sorted(second[:5]) == sorted(second[5:10]) == list(range(5))
    assert list(draw_order(dataset, range(42), 4)) != drawn


def test_the_order_depends_on_the_position_alone():
    dataset = mixed(0.6, 0.3, 0.1)
    whole = list(draw_order(dataset, range(60), 1))
    for start in (1, 17, 59):
        assert list(draw_order(dataset, range(start, 60), 1)) == whole[start:]


def test_one_data_set_is_drawn_as_it_always_was():
    """Permutations of seed and epoch: runs of earlier versions go on as they began."""
    orders = [np.random.default_rng((5, epoch)).permutation(7) for epoch in range(3)]
    assert list(draw_order(Plain(7, {"depth": 1}), range(4, 20), 5)) == np.concatenate(orders)[4:20].tolist()


def test_an_epoch_ends_when_all_have_come():
    for weights in ((1, 1, 1), (5, 1, 1), (1, 9, 4)):
        dataset = mixed(*weights)
        length = epoch_length(dataset)
        assert set(draw_order(dataset, range(length), 0)) == set(range(15))
    assert epoch_length(Plain(7, {"depth": 1})) == 7


def test_a_batch_has_maps_of_all_tasks_and_labels_of_the_source_s_own():
    dataset = mixed(1, 1, 1)
    loader = DataLoader(dataset, batch_size=3, sampler=dataset.sampler(6), collate_fn=dataset.collate)
    assert len(loader) == 2
    for batch in loader:
        assert sorted(id[:-1] for id in batch["id"]) == ["", "10", "20"]
        for image, id, *labels in zip(batch["image"], batch["id"], batch["depth"], batch["edge"], batch["height"]):
            assert bool((image == int(id)).all())
            assert [float(label.unique()) for label in labels] == [
                1.0 if int(id) // 100 == source else 255.0 for source in range(3)
            ]


def test_samples_have_the_transforms_of_their_sources():
    sources = [Plain(2, {"depth": 1}, transform=v2.Resize((2, 2))), Plain(2, {"depth": 1}, 10)]
    dataset = Mixture([(source, 1) for source in sources])
    assert [tuple(dataset[index]["image"].shape[1:]) for index in (0, -1)] == [(2, 2), (4, 5)]
    assert tuple(dataset.read(0)["image"].shape[1:]) == (4, 5)
    with pytest.raises(IndexError):
        dataset[4]
    with pytest.raises(
        ValueError, match=r"the same shape, got \(3, 2, 2\) of Plain.*, \(3, 4, 5\) of Plain.*`data.size`"
    ):
        dataset.check_sizes()
    with pytest.raises(ValueError, match="take parts of the sources"):
        as_multitask(Subset(dataset, [0]))
    with pytest.raises(ValueError, match="keep the sources in memory"):
        InMemory(dataset)


def test_labels_are_counted_over_all_sources():
    counted = summary(mixed(1, 1, lengths=(7, 5)))
    assert {name: (found.images, found.total) for name, found in counted.items()} == {"depth": (7, 12), "edge": (5, 12)}


def test_tasks_of_one_name_are_the_same():
    rooms = SyntheticRooms((24, 32), 2, tasks=["semseg"])
    unnamed = Plain(2, {"semseg": 16})
    assert Mixture([(unnamed, 1), (rooms, 1)]).tasks["semseg"] == rooms.tasks["semseg"]
    with pytest.raises(ValueError, match="different tasks named 'semseg': 16 and 5 channels"):
        Mixture([(rooms, 1), (Plain(2, {"semseg": 5}), 1)])
    assert list(Mixture([(rooms, 1)], tasks=resolve_tasks({"depth": 1})).tasks) == ["semseg", "depth"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "list of pairs"),
        ([Plain(2, {"depth": 1})], "list of pairs"),
        ([(Plain(2, {"depth": 1}), 0)], r"numbers above 0, got \[0\]"),
        ([(Plain(2, {"depth": 1}), "half")], "numbers above 0"),
        ([([1, 2], 1)], "Expected a demt.data.MultiTaskDataset"),
    ],
)
def test_errors(sources, message):
    with pytest.raises(ValueError, match=message):
        Mixture(sources)
