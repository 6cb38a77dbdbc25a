import colorsys

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from demt.data import Depth, Disparity, Label, transforms
from demt.data.transforms import PadTo, PhotometricDistortion, RandomCrop, RandomScale, ResizeImage
from tests.data import scenes


def image(size, value=None):
    pixels = torch.randint(0, 256, (3, *size)) if value is None else torch.full((3, *size), value)
    return tv_tensors.Image(pixels.to(torch.uint8))


def classes(values):
    return Label(torch.tensor(values, dtype=torch.uint8)[None])


def test_zoom_changes_depth_and_disparity_oppositely():
    sample = {"image": image((6, 8)), "depth": Depth(torch.full((1, 6, 8), 4.0)), "id": "a"}
    sample["depth"][0, 0] = 255
    sample["disparity"] = Disparity(sample["depth"].clone())
    zoomed = RandomScale((2, 2))(sample)
    assert zoomed["depth"].unique().tolist() == [2, 255]
    assert zoomed["disparity"].unique().tolist() == [8, 255]
    assert RandomScale((2, 2), disparity="divide")(sample)["disparity"].unique().tolist() == [2, 255]
    assert {RandomScale((1, 2), discrete=True)(sample)["image"].shape[-1] for _ in range(20)} == {8, 16}
    assert 8 <= RandomScale((1, 1.5))(sample)["image"].shape[-1] <= 12


def test_crop_looks_for_variety():
    left = np.zeros((20, 60), np.uint8)
    left[:, 40:] = 1
    sample = {"image": image((20, 60)), "semseg": classes(left.tolist())}
    shares = []
    for _ in range(50):
        crop = RandomCrop((20, 20), max_share=0.75)(sample)
        assert crop["image"].shape[-2:] == crop["semseg"].shape[-2:] == (20, 20)
        shares.append((crop["semseg"] == 0).float().mean().item())
    plain = [(RandomCrop((20, 20))(sample)["semseg"] == 0).float().mean().item() for _ in range(50)]
    assert sum(0.25 < share < 0.75 for share in shares) > 40 > 25 > sum(0.25 < share < 0.75 for share in plain)


def test_crop_and_pad_reach_the_size_from_any_image():
    for size in [(5, 40), (40, 5), (5, 5), (40, 40), (16, 16)]:
        sample = {"image": image(size), "semseg": classes(np.ones(size, int).tolist()), "id": "a"}
        done = PadTo((16, 16))(RandomCrop((16, 16), max_share=0.5)(sample))
        assert done["image"].shape == (3, 16, 16)
        kept = [min(side, 16) for side in size]
        assert (done["semseg"] == 1).sum() == kept[0] * kept[1]


def test_pad_puts_the_image_in_the_middle_as_the_published_code_does():
    done = PadTo((5, 8))({"image": image((2, 5), 9), "semseg": classes([[1] * 5] * 2)})
    expected = np.full((5, 8), 255)
    expected[1:3, 1:6] = 1
    assert done["semseg"][0].tolist() == expected.tolist()
    assert torch.equal(done["image"][0] == 9, done["semseg"][0] == 1)
    with pytest.raises(ValueError, match=r"at most 5 x 8 .* got 6 x 8"):
        PadTo((5, 8))({"image": image((6, 8))})


def test_sizes_that_differ_are_refused_where_they_would_shift_labels():
    sample = {"image": image((8, 8)), "semseg": classes(np.ones((16, 16), int).tolist())}
    for step in (RandomCrop((4, 4)), PadTo((20, 20))):
        with pytest.raises(ValueError, match="of the same size"):
            step(sample)
    resized = ResizeImage((4, 4))(sample)
    assert (resized["image"].shape[-1], resized["semseg"].shape[-1]) == (4, 16)


def test_photometric_distortion_follows_hsv():
    pixels = image((9, 9))
    step = PhotometricDistortion()
    nothing = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), None)

    def apply(**params):
        return step.transform(pixels, {**nothing, "contrast_first": True, **params}).int()

    values = pixels.int()
    assert torch.equal(apply(), values)
    assert torch.equal(apply(brightness=-20.0), (values - 20).clamp(0, 255))
    assert torch.equal(apply(contrast=1.5), (values * 1.5).round().clamp(0, 255).int())
    both = (((values + 30).clamp(0, 255)) * 0.5).round().int()
    assert torch.equal(apply(brightness=30.0, contrast=0.5, contrast_first=False), both)
    for factor, turn in [(0.6, 0.0), (1.4, 0.0), (1.0, 0.07)]:
        got = apply(saturation=factor, hue=turn)
        for row in range(9):
            r, g, b = (channel / 255 for channel in values[:, row, 4].tolist())
            h, s, v = colorsys.rgb_to_hsv(r, g, b)
            expected = colorsys.hsv_to_rgb((h + turn) % 1, min(s * factor, 1), v)
            assert np.allclose(got[:, row, 4].numpy(), [255 * c for c in expected], atol=0.51)
    with pytest.raises(ValueError, match="uint8"):
        step({"image": F.to_dtype(pixels, torch.float32, scale=True)})


def test_photometric_distortion_happens_half_the_time():
    drawn = [PhotometricDistortion().make_params([]) for _ in range(400)]
    for name, low, high in [("brightness", -32, 32), ("contrast", 0.5, 1.5), ("hue", -0.1, 0.1)]:
        values = [d[name] for d in drawn if d[name] is not None]
        assert 140 < len(values) < 260
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high


@pytest.mark.parametrize(
    ("dataset", "protocol", "size"),
    [
        ("nyud", None, (425, 560)),
        ("nyud", "invpt", (448, 576)),
        ("nyud", "mtdp", (448, 576)),
        ("pascal", "atrc", (512, 512)),
        ("pascal", "invpt", (512, 512)),
    ],
)
def test_published_sizes(dataset, protocol, size):
    native = (425, 560) if dataset == "nyud" else (375, 500)
    depth, normals = scenes.plane((0.3, -0.5, -0.9), native, focal=400)
    sample = scenes.sample(
        depth, normals, (np.arange(560)[: native[1]] // 100 % 40 * np.ones((native[0], 1))).astype(np.uint8)
    )
    for make in (transforms.train_transform, transforms.eval_transform):
        done = make(dataset, protocol=protocol)(sample)
        assert {tuple(done[name].shape[-2:]) for name in ("image", "semseg", "depth", "normals", "edge")} == {size}
        assert done["image"].dtype == torch.float32
        assert (done["image"].abs() < 3).all()
    # Evaluation leaves values as they are, and marks the padding.
    assert (done["depth"] != 255).sum() == native[0] * native[1]
    assert torch.equal(done["depth"][done["depth"] != 255], sample["depth"].flatten())
    assert (done["image"][(done["depth"] == 255).expand(3, -1, -1)] == 0).all()


@pytest.mark.parametrize(("protocol", "size"), [("taskprompter", (64, 128)), ("mtmamba", (32, 64)), ("mtan", (16, 32))])
def test_cityscapes_transforms(protocol, size, monkeypatch):
    sizes = {"taskprompter": (64, 128), "mtmamba": (32, 64), "mtan": (16, 32)}
    assert {name: (16 * h, 16 * w) for name, (h, w) in sizes.items()} | {
        "mtan": (128, 256)
    } == transforms.CITYSCAPES_SIZES
    monkeypatch.setattr(transforms, "CITYSCAPES_SIZES", sizes)
    native = size if protocol == "mtan" else (64, 128)
    sample = {"image": image(native), "depth": Disparity(torch.full((1, *native), 6.0))}
    for make in (transforms.train_transform, transforms.eval_transform):
        done = make("cityscapes", protocol=protocol)(sample)
        assert done["image"].shape[-2:] == size
        assert done["depth"].shape[-2:] == native


def test_own_data():
    with pytest.raises(ValueError, match="needs the `size`"):
        transforms.train_transform()
    sample = {"image": image((50, 70)), "semseg": classes(np.arange(3500).reshape(50, 70).astype(int) % 9)}
    assert transforms.train_transform(size=(32, 48))(sample)["semseg"].shape == (1, 32, 48)
    assert transforms.eval_transform()(sample)["image"].shape == (3, 50, 70)
    grey = transforms.eval_transform(mean=[0.5] * 3, std=[0.5] * 3)({"image": image((2, 2), 255)})
    assert torch.equal(grey["image"], torch.ones(3, 2, 2))
    for arguments in ({"dataset": "kitti"}, {"dataset": "nyud", "protocol": "mtan"}, {"protocol": "atrc"}):
        with pytest.raises(ValueError, match=r"dataset|protocol"):
            transforms.train_transform(**arguments)
    for step in (
        lambda: PadTo(5),
        lambda: RandomScale((2,)),
        lambda: RandomScale((0, 1)),
        lambda: RandomCrop((1.5, 2)),
    ):
        with pytest.raises(ValueError, match="Expected"):
            step()


def test_recipes_repeat_under_a_seed():
    sample = scenes.sample(*scenes.plane((0.3, -0.5, -0.9), (60, 80)))
    transform = transforms.train_transform(size=(48, 48))
    done = []
    for _ in range(2):
        torch.manual_seed(3)
        done.append(transform(sample))
    assert all(torch.equal(done[0][name], done[1][name]) for name in ("image", "semseg", "depth", "normals"))
