"""`SyntheticRooms` as a data set: its samples, and that a seed means the same everywhere."""

import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

import demt
from demt.data import SyntheticRooms
from demt.data.rooms.dice import Dice
from demt.data.tv_tensors import Boundary, Depth, SurfaceNormals
from demt.tasks import DATASETS

LABELS = ("semseg", "human_parts", "sal", "normals", "depth", "edge")


def digest(rooms, count):
    """Hash of all labels of the first scenes, bit for bit."""
    found = hashlib.sha256()
    for index in range(count):
        sample = rooms[index]
        for name in LABELS:
            values = np.ascontiguousarray(sample[name].numpy())
            found.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return found.hexdigest()


STORED = "8ceb3858d0b87dc9af98ed62569685fa480ba4f61f1143beff4e9b99694e27a3"
#: Means of the colour channels of the first three images.
STORED_MEANS = [[145.58, 133.551, 115.145], [113.097, 106.753, 97.731], [137.522, 129.438, 119.572]]


def test_labels_are_the_stored_ones():
    rooms = SyntheticRooms(size=(48, 64), seed=7)
    assert digest(rooms, 8) == STORED
    means = [rooms[i]["image"].float().mean((1, 2)).tolist() for i in range(3)]
    np.testing.assert_allclose(means, STORED_MEANS, atol=0.05)


def test_random_numbers_are_philox():
    """The first words for key and counter 0 are the known answer published with Philox4x64 (10 rounds)."""
    # NumPy counts up before it makes the first block.
    known = np.random.Philox(key=0, counter=2**256 - 1).random_raw(4).tolist()
    assert known == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert Dice(3, 4).words(4).tolist() == np.random.Philox(key=3 + (4 << 64)).random_raw(4).tolist()
    dice = Dice(5, 9)
    values = np.array([dice.uniform(-1, 3) for _ in range(5000)])
    assert values.min() >= -1
    assert values.max() < 3
    assert abs(values.mean() - 1) < 0.06
    assert {Dice(0, i).integer(2, 4) for i in range(50)} == {2, 3, 4}
    noise = Dice(0, 0).noise(50000)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_samples():
    rooms = SyntheticRooms(size=(45, 61), length=3)
    sample = rooms[2]
    assert list(sample) == ["image", *LABELS, "id"]
    forms = {name: (type(v), v.dtype, tuple(v.shape)) for name, v in sample.items() if name != "id"}
    assert forms["image"] == (tv_tensors.Image, torch.uint8, (3, 45, 61))
    for name in ("semseg", "human_parts", "sal"):
        assert isinstance(sample[name], tv_tensors.Mask)
        assert forms[name][1:] == (torch.uint8, (1, 45, 61))
    assert forms["normals"] == (SurfaceNormals, torch.float32, (3, 45, 61))
    assert forms["depth"] == (Depth, torch.float32, (1, 45, 61))
    assert forms["edge"] == (Boundary, torch.float32, (1, 45, 61))
    assert sample["id"] == "0-000002"
    assert rooms.tasks == DATASETS["rooms"]
    assert len(rooms) == 3
    with pytest.raises(IndexError):
        rooms[3]
    assert repr(rooms).startswith("SyntheticRooms(seed 0, 45 x 61, 3 samples")


def equal(a, b):
    return a["id"] == b["id"] and all(torch.equal(a[name], b[name]) for name in ("image", *LABELS))


def test_a_scene_depends_on_seed_and_index_alone():
    rooms = SyntheticRooms(size=(30, 40), seed=1)
    first = rooms[4]
    rooms[0]
    assert equal(first, rooms[4])
    assert equal(first, pickle.loads(pickle.dumps(rooms))[4])
    longer = SyntheticRooms(size=(30, 40), length=5000, seed=1)
    assert equal(first, longer[4])
    only = SyntheticRooms(size=(30, 40), seed=1, tasks=["depth"])[4]
    assert list(only) == ["image", "depth", "id"]
    assert torch.equal(only["depth"], first["depth"])


def test_another_process_makes_the_same():
    code = (
        "from demt.data import SyntheticRooms; from tests.data.rooms.test_dataset import digest;"
        "print(digest(SyntheticRooms(size=(24, 32), seed=2), 3))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == digest(SyntheticRooms(size=(24, 32), seed=2), 3)


def test_seeds_share_no_scene():
    seeds, count = (0, 1, 2, 2**63 - 1), 6
    scenes = [SyntheticRooms(size=(12, 16), seed=seed).render(i)["depth"] for seed in seeds for i in range(count)]
    assert len({scene.tobytes() for scene in scenes}) == len(seeds) * count


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (37, 3), (5, 5), (64, 200), (111, 77)])
def test_any_size(size):
    sample = SyntheticRooms(size=size, seed=8)[1]
    for name in ("image", *LABELS):
        assert tuple(sample[name].shape[-2:]) == size
        assert torch.isfinite(sample[name].float()).all()


def test_transforms_and_batches():
    flip = v2.RandomHorizontalFlip(p=1.0)
    plain, flipped = SyntheticRooms(size=(30, 40)), SyntheticRooms(size=(30, 40), transform=flip)
    assert torch.equal(flipped[0]["depth"], plain[0]["depth"].flip(-1))
    assert torch.equal(flipped[0]["normals"][0], -plain[0]["normals"][0].flip(-1))
    loader = DataLoader(plain, batch_size=3, collate_fn=plain.collate, num_workers=1)
    batch = next(iter(loader))
    assert batch["image"].shape == (3, 3, 30, 40)
    assert torch.equal(batch["normals"][2], plain[2]["normals"])


def test_models_take_the_task_set():
    model = demt.create_model("degmix_nano", tasks="rooms").eval()
    assert list(model.tasks) == list(LABELS)
    assert model.tasks["semseg"].channels == 16
    with torch.no_grad():
        out = model(torch.zeros(1, 3, 48, 64))
    assert {name: maps.shape[1] for name, maps in out.items()} == dict(zip(LABELS, (16, 7, 2, 3, 1, 1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (0, 5)}, "`size`"),
        ({"size": 192}, "`size`.*got 192"),
        ({"size": (10.5, 5)}, "`size`"),
        ({"length": 0}, "`length`.*got 0"),
        ({"length": True}, "`length`"),
        ({"seed": -1}, "`seed`.*got -1"),
        ({"seed": 2**63}, "`seed`"),
        ({"tasks": ["semseg", "flow"]}, "\\['flow'\\].*human_parts"),
        ({"tasks": "semseg"}, "list of names"),
        ({"tasks": []}, "list of names"),
        ({"transform": 3}, "`transform`"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        SyntheticRooms(**arguments)
