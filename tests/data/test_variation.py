"""Strong variation changes how images look and nothing else."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from demt.data import SyntheticRooms
from demt.data.transforms import strong_variation, train_transform
from demt.data.variation import RandomCompression, RandomGamma, RandomTexture


@pytest.fixture(scope="module")
def sample():
    return SyntheticRooms((48, 64), length=1).read(0)


def test_labels_stay_and_images_change(sample):
    vary, seen = strong_variation(), set()
    torch.manual_seed(0)
    for _ in range(40):
        varied = vary(sample)
        assert varied.keys() == sample.keys()
        assert varied["id"] == sample["id"]
        for name in varied.keys() - {"image", "id"}:
            assert type(varied[name]) is type(sample[name])
            assert torch.equal(varied[name], sample[name])
        assert isinstance(varied["image"], tv_tensors.Image)
        assert varied["image"].dtype == torch.uint8
        assert varied["image"].shape == (3, 48, 64)
        seen.add(varied["image"].numpy().tobytes())
    assert len(seen) > 35


def test_variation_is_drawn_from_torchs_generator(sample):
    images = []
    for _ in range(2):
        torch.manual_seed(3)
        images.append([strong_variation()(sample)["image"] for _ in range(10)])
    assert all(map(torch.equal, *images))


def test_grey_images_stay_grey():
    vary, image = strong_variation(), tv_tensors.Image(torch.randint(0, 256, (1, 24, 32), dtype=torch.uint8))
    torch.manual_seed(0)
    for _ in range(20):
        assert vary({"image": image})["image"].shape == (1, 24, 32)


def test_gamma_is_a_power():
    image = tv_tensors.Image(torch.arange(256, dtype=torch.uint8).view(1, 16, 16))
    expected = 255 * (np.arange(256) / 255) ** 2
    assert np.abs(RandomGamma(2, 2)(image).numpy().ravel() - expected).max() <= 1
    with pytest.raises(ValueError, match="lowest"):
        RandomGamma(2, 1)


def test_compression_costs_detail(sample):
    errors = []
    for quality in (10, 95):
        done = RandomCompression(quality, quality)(sample)["image"]
        errors.append(float((done.float() - sample["image"].float()).abs().mean()))
    assert 0 < 2 * errors[1] < errors[0] < 40


def test_texture_is_a_factor_within_its_strength():
    image = tv_tensors.Image(torch.full((3, 40, 60), 100, dtype=torch.uint8))
    torch.manual_seed(1)
    factors = np.stack([RandomTexture(0.4)(image).numpy() / 100 for _ in range(30)])
    assert factors.min() >= 0.59
    assert factors.max() <= 1.41
    assert factors.std() > 0.05
    # Neighbours are alike: clouds, not grains alone.
    assert np.abs(np.diff(factors, axis=-1)).mean() < factors.std() / 2


def test_strong_training_transform(sample):
    names = [type(step).__name__ for step in train_transform(size=(32, 32), strong=True).transforms]
    assert "PhotometricDistortion" not in names
    assert names.index("Compose") == 3
    zoomed = train_transform(size=(48, 64), zoom=(0.5, 0.5), strong=True)(sample)
    labelled = (zoomed["depth"] != 255).nonzero()
    assert (labelled.amax(0) - labelled.amin(0))[1:].tolist() == [23, 31]
