import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from demt.data import Boundary, Depth, Label, SurfaceNormals
from demt.data.augment import RandomScale
from tests.data import scenes

SIZE = (61, 81)
TILTED = (0.3, -0.5, -0.9)


@pytest.mark.parametrize(
    "flip", [v2.RandomHorizontalFlip(1), v2.RandomVerticalFlip(1)], ids=["sideways", "upside down"]
)
def test_flipped_normals_are_those_of_the_flipped_depth(flip):
    depth, normals = scenes.sphere(SIZE)
    before, after = scenes.sample(depth, normals), flip(scenes.sample(depth, normals))
    for moved in (before, after):
        seen, given = scenes.numpy(moved["depth"]), scenes.numpy(moved["normals"])
        # Differences are inexact, and reach one pixel beyond, near the rim, where the sphere is seen from the side.
        inside = (seen > 0) & (given[..., 2] < -0.75)
        assert inside.sum() > 400
        assert scenes.angle(scenes.normals_of_depth(seen), given)[inside].mean() < 0.6
    assert not torch.equal(before["normals"], after["normals"])
    unknown = (after["depth"] == 255).expand(3, -1, -1)
    assert torch.equal(after["normals"] == 255, unknown)
    assert all(torch.equal(before[name], flip(after)[name]) for name in ("image", "depth", "normals", "semseg"))


@pytest.mark.parametrize(
    ("turn", "angle"),
    [
        (lambda s: {**s, **{n: F.rotate(s[n], 25.0) for n in ("depth", "normals")}}, 25),
        (lambda s: {**s, **{n: F.rotate(s[n], 90.0, expand=True) for n in ("depth", "normals")}}, 90),
        (v2.RandomRotation((-40, -40)), -40),
        (v2.RandomAffine((30, 30)), -30),
    ],
    ids=["rotate", "by 90", "RandomRotation", "RandomAffine"],
)
def test_rotated_normals_are_those_of_the_rotated_depth(turn, angle):
    depth, normals = scenes.plane(TILTED, SIZE)
    moved = turn(scenes.sample(depth, normals))
    turned = scenes.numpy(moved["normals"])
    known = (moved["normals"] != 255).all(0).numpy()
    assert np.array_equal(known, (moved["depth"] != 255)[0].numpy())
    assert known.sum() > 0.6 * depth.size
    seen = scenes.plane_normal_of_depth(scenes.numpy(moved["depth"]))
    assert scenes.angle(turned[known], seen).max() < 0.5
    # Counter-clockwise, y down: as the code of ASTMT turns them.
    x, y, z = np.array(TILTED) / np.linalg.norm(TILTED)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    np.testing.assert_allclose(turned[known], [[cos * x + sin * y, cos * y - sin * x, z]] * known.sum(), atol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 0.77, 1.6, 2.0])
def test_zoom_keeps_depth_and_normals_together(scale):
    depth, normals = scenes.plane(TILTED, SIZE)
    zoomed = RandomScale((scale, scale))(scenes.sample(depth, normals))
    assert zoomed["image"].shape[-2:] == tuple(int(side * scale) for side in SIZE)
    factors = [new / old for new, old in zip(zoomed["depth"].shape[-2:], SIZE)]
    focal = scenes.FOCAL * np.array(factors)
    seen = scenes.plane_normal_of_depth(scenes.numpy(zoomed["depth"]), focal)
    assert scenes.angle(scenes.numpy(zoomed["normals"]), seen).max() < 0.5
    middle = scenes.numpy(zoomed["depth"])[int(30 * scale), int(40 * scale)]
    assert middle * scale == pytest.approx(depth[30, 40], rel=0.02)
    resized = v2.Resize(zoomed["image"].shape[-2:])(scenes.sample(depth, normals))
    assert scenes.numpy(resized["depth"]).mean() == pytest.approx(depth.mean(), rel=0.02)


def test_image_labels_and_boundaries_stay_together():
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    disc = ((rows - 28) ** 2 + (columns - 45) ** 2 < 300).astype(np.uint8) * 5
    plain = scenes.sample(*scenes.plane(TILTED, SIZE), disc)
    pipelines = [
        v2.RandomHorizontalFlip(1),
        v2.Resize((43, 60)),
        v2.Resize((100, 150)),
        v2.RandomResizedCrop(64, scale=(0.7, 1)),
        v2.RandomRotation((20, 20)),
        v2.RandomAffine(15, (0.1, 0.1), (0.8, 1.2)),
        v2.Compose([v2.Pad(9), v2.CenterCrop(70)]),
        RandomScale((0.6, 0.6)),
    ]
    for pipeline in pipelines:
        moved = pipeline(plain)
        bright = moved["image"][0] > 100
        inside = moved["semseg"][0] == 5
        for axis in (0, 1):
            centres = [mask.nonzero()[:, axis].float().mean() for mask in (bright, inside)]
            assert abs(centres[0] - centres[1]) < 0.35, pipeline
        # No boundary further than the width of a line from a change of labels.
        change = torch.zeros_like(inside)
        change[1:] |= inside[1:] != inside[:-1]
        change[:, 1:] |= inside[:, 1:] != inside[:, :-1]
        near = torch.nn.functional.max_pool2d(change[None].float(), 7, stride=1, padding=3)[0] > 0
        edge = moved["edge"][0] == 1
        assert edge.sum() > 20
        assert not (edge & ~near).any(), pipeline


OUTSIDE = [
    v2.Pad(5),
    v2.Pad(5, fill=7),
    v2.Pad(5, fill={tv_tensors.Image: 7, "others": 0}),
    v2.Pad(5, padding_mode="reflect"),
    v2.CenterCrop((70, 60)),
    v2.RandomCrop((80, 100), pad_if_needed=True),
    v2.RandomRotation((30, 30)),
    v2.RandomRotation((30, 30), fill=0, expand=True),
    v2.RandomAffine(10, (0.2, 0.2), fill=3),
    v2.RandomZoomOut(p=1),
]


@pytest.mark.parametrize("pipeline", OUTSIDE, ids=lambda t: str(t)[:40])
def test_what_comes_in_from_outside_is_unlabelled(pipeline):
    sample = scenes.sample(*scenes.plane(TILTED, SIZE), np.full(SIZE, 3, np.uint8))
    moved = pipeline(sample)
    outside = moved["semseg"][0] == 255
    assert outside.any()
    assert set(moved["semseg"].unique().tolist()) == {3, 255}
    for name in ("depth", "normals", "edge"):
        assert torch.equal((moved[name] == 255).all(0), outside), name
        assert torch.equal((moved[name] == 255).any(0), outside), name
        assert type(moved[name]) is type(sample[name])
    assert moved["image"].shape[-2:] == outside.shape


def test_a_crop_beyond_the_image_is_unlabelled():
    label = Label(torch.ones(1, 4, 5, dtype=torch.uint8))
    assert F.crop(label, -1, 3, 3, 4).tolist() == [[[255] * 4, [1, 1, 255, 255], [1, 1, 255, 255]]]
    assert F.resized_crop(label, 2, 0, 4, 5, [2, 5])[0, :, 0].tolist() == [1, 255]


def test_perspective_and_elastic_move_classes_but_refuse_geometry():
    sample = scenes.sample(*scenes.plane(TILTED, SIZE))
    classes = {name: sample[name] for name in ("image", "semseg", "edge")}
    for warp in (v2.RandomPerspective(p=1), v2.ElasticTransform()):
        assert type(warp(classes)["edge"]) is Boundary
        for name in ("depth", "normals"):
            with pytest.raises(ValueError, match="leaves depth and surface normals wrong"):
                warp({**classes, name: sample[name]})
    shear = v2.RandomAffine(0, shear=(9, 10))
    assert type(shear({**classes, "depth": sample["depth"]})["depth"]) is Depth
    with pytest.raises(ValueError, match="shear of the image would make surface normals wrong"):
        shear(sample)


@pytest.mark.parametrize(
    "pipeline",
    [
        v2.RandomPhotometricDistort(p=1),
        v2.ColorJitter(0.5, 0.5, 0.5, 0.2),
        v2.GaussianBlur(5),
        v2.RandomGrayscale(1),
        v2.RandomInvert(1),
        v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.1] * 3)]),
        v2.GaussianNoise(),
    ],
    ids=lambda t: type(t).__name__,
)
def test_photometric_transforms_touch_the_image_alone(pipeline):
    depth, normals = scenes.sphere(SIZE)
    sample = scenes.sample(depth, normals, np.arange(81, dtype=np.uint8)[None].repeat(61, 0) // 20)
    if isinstance(pipeline, v2.GaussianNoise):
        sample["image"] = F.to_dtype(sample["image"], torch.float32, scale=True)
    after = pipeline(sample)
    assert not torch.equal(after["image"].float(), sample["image"].float())
    for name in ("semseg", "depth", "normals", "edge"):
        assert torch.equal(after[name], sample[name])
        assert type(after[name]) is type(sample[name])


def test_labels_must_hold_255():
    for dtype in (torch.bool, torch.int8):
        with pytest.raises(ValueError, match="a dtype that holds 255"):
            Label(torch.zeros(1, 2, 2, dtype=dtype))
    assert isinstance(SurfaceNormals(torch.zeros(3, 2, 2)), tv_tensors.Mask)
