"""The scripts that make training data of photographs."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

import demt
from demt.data import SyntheticRooms
from demt.data.transforms import eval_transform
from demt.data.tv_tensors import IGNORE
from demt.losses import balanced_bce
from examples.photographs.label import HED, crops, cut, exact_crops
from examples.photographs.near import logarithms, loss_of, remembered, train
from examples.photographs.paste import cutout, scene
from examples.photographs.polish import polish, with_encoder
from examples.photographs.sizes import Depth, standing
from examples.photographs.stand import furnished, put


def picture(width, height):
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns % 256, rows % 256, 0 * rows], -1).astype(np.uint8))


def test_crops_are_settled_by_the_name_and_have_many_scales():
    large = picture(1200, 900)
    first, again, other = (list(crops(large, 10, name)) for name in ("a", "a", "b"))
    assert [crop.tobytes() for crop in first] == [crop.tobytes() for crop in again]
    assert sum(crop.tobytes() == another.tobytes() for crop, another in zip(first, other)) == 1
    assert [max(crop.size) for crop in first] == [384, 512] * 5
    assert [crop.width > crop.height for crop in first] == [True, True, False] * 3 + [True]
    assert all(min(crop.size) == pytest.approx(0.75 * max(crop.size), abs=1) for crop in first)


def test_exact_crops_have_one_size_and_lie_in_the_picture():
    large = picture(1200, 900)
    first, again = (list(exact_crops(large, 8, "a")) for _ in range(2))
    assert [crop.tobytes() for crop in first] == [crop.tobytes() for crop in again]
    assert {crop.size for crop in first} == {(384, 288)}
    # The red channel counts columns: a crop's width in the picture is what it spans, here without the wrapping at 256.
    spans = [np.unwrap(np.array(crop)[0, :, 0].astype(float), period=256) for crop in first]
    widths = [(span[-1] - span[0]) / 383 * 384 for span in spans]
    assert widths[0] == pytest.approx(1200, abs=40)
    assert all(0.33 * 1200 <= width <= 1240 for width in widths)


def test_small_pictures_are_not_enlarged_and_have_few_crops():
    made = list(crops(picture(320, 240), 9, "small"))
    assert len(made) == 3
    assert made[0].size == (320, 240)
    assert all(0.55 * 240 <= min(crop.size) <= 240 and max(crop.size) <= 320 for crop in made)


def test_cutting_goes_on_where_it_was_stopped(tmp_path):
    source, out = tmp_path / "pictures", tmp_path / "crops"
    source.mkdir()
    for name in ("one", "two"):
        picture(600, 450).save(source / f"{name}.png")
    cut(source, out, 4)
    whole = {file.name: file.read_bytes() for file in out.iterdir()}
    assert sorted(whole) == [f"{name}-{index}.png" for name in ("one", "two") for index in range(4)]
    # The first crop is written last: without it a picture is not done.
    for name in ("two-0.png", "two-2.png"):
        (out / name).unlink()
    cut(source, out, 4)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == whole


def test_hed_reads_its_file_and_finds_what_its_weights_look_for(tmp_path):
    """Weights by hand: every level passes on the blue channel, so that the sides show how dark blue pixels are."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "hed.h5", "w") as file:
        inputs = 3
        for block, count in enumerate((2, 2, 3, 3, 3), 1):
            for index in range(count):
                kernel = np.zeros((3, 3, inputs, 2), np.float32)
                kernel[1, 1, 0, 0] = 1
                name = "conv2d" if index == 0 else f"conv2d_{index}"
                file[f"block{block}/layers/{name}/vars/0"] = kernel
                file[f"block{block}/layers/{name}/vars/1"] = np.zeros(2, np.float32)
                inputs = 2
            file[f"dsn{block}/vars/0"] = np.array([0.01, 0], np.float32).reshape(1, 1, 2, 1)
            file[f"dsn{block}/vars/1"] = np.zeros(1, np.float32)
        file["fuse/vars/0"] = np.full((1, 1, 5, 1), 0.2, np.float32)
        file["fuse/vars/1"] = np.full(1, -0.5, np.float32)
    pixels = np.zeros((33, 47, 3), np.uint8)
    pixels[..., 2] = 200
    found = HED(tmp_path / "hed.h5").boundaries(pixels)["edge"]
    assert found.shape == (33, 47)
    expected = 1 / (1 + np.exp(-(0.01 * (200 - 104.00699) - 0.5)))
    assert torch.from_numpy(found).sub(expected).abs().max() < 1e-5


def test_polishing_changes_boundaries_alone(tmp_path):
    torch.manual_seed(0)
    for folder in ("images", "edge"):
        (tmp_path / folder).mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 60, (48, 64, 3), dtype=np.uint8)
        pixels[:, 20 + 5 * index :] += 150
        edges = np.zeros((48, 64), np.uint8)
        edges[:, 19 + 5 * index : 21 + 5 * index] = 1
        edges[0] = 255
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(edges).save(tmp_path / "edge" / f"{index}.png")
    tasks = {"depth": 1, "edge": 1}
    model = demt.create_model(
        "multitask_baseline", backbone="test_resnet.r160_in1k", tasks=tasks, width=8, refine_width=4
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, last = polish(model, tmp_path, steps=1, rate=1e-4), polish(model, tmp_path, steps=150)
    assert last < 0.5 * first
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith(("head.details.", "head.refinements.edge.")) for name in moved)


def test_boundaries_get_an_encoder_of_their_own(tmp_path):
    torch.manual_seed(0)
    tasks = {"depth": 1, "edge": 1}
    model = demt.create_model(
        "multitask_baseline", backbone="test_resnet.r160_in1k", tasks=tasks, width=8, refine_width=4
    )
    first = with_encoder(model, 1, 6).eval()
    more = with_encoder(first, 3, 6).eval()
    for name, value in more.head.encoders["edge"].stages.state_dict().items():
        assert torch.equal(value, model.backbone.state_dict()[name])
    for name, value in first.state_dict().items():
        assert torch.equal(value, more.state_dict()[name])
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(more(images)["depth"], model.eval()(images)["depth"])
    for folder in ("images", "edge"):
        (tmp_path / folder).mkdir()
    pixels = np.random.default_rng(0).integers(0, 60, (48, 64, 3), dtype=np.uint8)
    pixels[:, 20:] += 150
    probabilities = np.zeros((48, 64), np.uint8)
    probabilities[:, 18:22] = 120, 250, 250, 120
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    Image.fromarray(probabilities).save(tmp_path / "edge" / "a.png")
    before = {name: value.clone() for name, value in more.state_dict().items()}
    polish(more, tmp_path, steps=200, soft=True)
    moved = {name for name, value in more.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.startswith(("head.encoders.edge.", "head.refinements.edge.")) for name in moved)
    found = demt.predict(more, pixels)["edge"]
    assert found[:, 19:21].mean() > 0.4
    assert found[:, :15].mean() < 0.05


def test_salient_objects_are_as_near_as_their_foot():
    depth = np.linspace(5, 1, 20, dtype=np.float32)[:, None] * np.ones((1, 30), np.float32)
    saliency = np.zeros((20, 30))
    saliency[2:17, 5:10] = 0.9  # stands
    saliency[3, 20] = 0.9  # too small
    saliency[4:18, 25:28] = 0.4  # not sure
    found = standing(depth, saliency)
    assert np.allclose(found[2:17, 5:10], np.minimum(depth[2:17, 5:10], depth[16, 5]), rtol=0.05)
    rest = np.ones_like(depth, bool)
    rest[2:17, 5:10] = False
    assert np.array_equal(found[rest], depth[rest])


def test_depth_of_several_sizes_is_symmetric_and_keeps_its_scale(monkeypatch):
    model = demt.create_model("demt", backbone="test_resnet.r160_in1k", tasks={"depth": 1}, width=8, heads=2)
    seen = []

    def predict(_, picture):
        seen.append(picture.size)
        columns = np.linspace(1, 3, picture.width, dtype=np.float32)
        return {"depth": np.ones((picture.height, 1), np.float32) * columns * picture.width / 100}

    monkeypatch.setattr("demt.predict", predict)
    teacher = Depth(model, lambda pixels: {"sal": np.zeros(pixels.shape[:2], np.float32)})
    found = teacher(np.zeros((30, 40, 3), np.uint8))["depth"]
    assert seen == [(size, round(size * 3 / 4)) for size in (224, 224, 256, 256, 288, 288, 320, 320)]
    assert np.allclose(found, found[:, ::-1], rtol=1e-3)  # what is said of a picture and its mirror image cancels out
    assert np.median(found) == pytest.approx(2 * np.prod([2.24, 2.56, 2.88, 3.2]) ** 0.25, rel=0.15)


def test_near_objects_are_learnt_by_depth_alone(tmp_path):
    torch.manual_seed(0)
    for kind in ("photographs", "rooms"):
        for folder in ("images", "sal", "depth"):
            (tmp_path / kind / folder).mkdir(parents=True)
        for index in range(4):
            pixels = np.random.default_rng(index).integers(0, 60, (64, 96, 3), dtype=np.uint8)
            mask = np.zeros((64, 96), np.uint8)
            if kind == "photographs":
                mask[20:50, 10 + 8 * index : 50 + 8 * index] = 1
                pixels[mask == 1, 0] += 180
            Image.fromarray(pixels).save(tmp_path / kind / "images" / f"{index}.png")
            Image.fromarray(mask).save(tmp_path / kind / "sal" / f"{index}.png")
            np.save(tmp_path / kind / "depth" / f"{index}.npy", np.where(mask, 1, 4).astype(np.float32))
    model = demt.create_model(
        "demt",
        backbone="test_resnet.r160_in1k",
        tasks={"sal": 2, "depth": 1},
        width=16,
        heads=2,
        refine_width=4,
    ).eval()
    transform = eval_transform(mean=model.pretrained_cfg.mean, std=model.pretrained_cfg.std)
    photographs, rooms = (remembered(model, tmp_path / kind, transform) for kind in ("photographs", "rooms"))
    images, _, _, maps = (torch.cat(pair).float() for pair in zip(photographs, rooms))
    with torch.no_grad():
        found = logarithms(model, images, maps)
        expected = model.tasks["depth"].predict(model(images)["depth"]).view(found.shape).clamp_min(0.05).log()
    assert (found - expected).abs().max() < 0.05  # the maps are kept in bfloat16
    with torch.no_grad():  # as trained: without any depth there is no logarithm to learn from
        model.head.refinements["depth"].logits.bias.fill_(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = train(model, photographs, rooms, steps=1, rate=1e-6)
    last = train(model, photographs, rooms, steps=150, rate=1e-2)
    assert last < 0.6 * first
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    own = ("head.queries.depth.", "head.heads.depth.", "head.refinements.depth.")
    assert all(name.startswith(own) for name in moved)


def test_a_photographs_depth_has_no_scale():
    depth, salient = torch.rand(7, 1, 6, 8) + 1, torch.zeros(7, 1, 6, 8, dtype=torch.bool)
    found = depth.log()
    found[:2] += 3
    assert loss_of(found, depth, salient) < 1e-6
    found[2:] += 0.25
    depth[2:, :, :3] = IGNORE
    assert loss_of(found, depth, salient) == pytest.approx(0.25)


def test_unsure_pixels_do_not_count():
    logits, edges = torch.tensor([[[[2.0, -1.0, 5.0]]]]), torch.tensor([[[[1, 0, 255]]]])
    expected = (-0.95 * torch.tensor(2.0).sigmoid().log() - 0.05 * torch.tensor(1.0).sigmoid().log()) / 2
    torch.testing.assert_close(balanced_bce(logits, edges), expected)


def disc(folder, width, height):
    """A red ellipse with transparent corners, in a file with an empty margin."""
    pixels = np.zeros((height + 20, width + 20, 4), np.uint8)
    rows, columns = np.mgrid[: height + 20, : width + 20]
    inside = ((rows - height / 2 - 10) / (height / 2)) ** 2 + ((columns - width / 2 - 10) / (width / 2)) ** 2 <= 1
    pixels[inside] = 255, 0, 0, 255
    file = folder / f"disc{width}x{height}.png"
    Image.fromarray(pixels).save(file)
    return file


def test_cutouts_lose_their_margin_and_are_hardly_enlarged(tmp_path):
    with Image.open(disc(tmp_path, 100, 60)) as opened:
        small, large = (cutout(opened.convert("RGBA"), share, random.Random(1)) for share in (0.1, 1))
    assert max(small.width / 384, small.height / 288) == pytest.approx(0.1, abs=0.01)
    # 1.25 times a disc of 100 pixels, and what turning it a little adds.
    assert 120 <= large.width <= 150


def test_scenes_are_settled_by_their_number_and_show_the_objects(tmp_path):
    picture(1000, 700).save(tmp_path / "picture.png")
    cutouts = [disc(tmp_path, 300, 200)]
    first, again, other = (scene(cutouts, [tmp_path / "picture.png"], random.Random(seed)) for seed in (0, 0, 1))
    assert first.size == (384, 288)
    assert first.tobytes() == again.tobytes() != other.tobytes()
    # Nothing else has no green at all over so large an area.
    red = (np.array(first)[..., 0] > 150) & (np.array(first)[..., 1:] < 20).all(-1)
    assert red.mean() > 0.02


def flat_room():
    """A floor whose depth falls from 8 m to 2 m, before a wall at 8 m."""
    height, width = 60, 80
    depth = np.full((height, width), 8, np.float32)
    depth[30:] = np.linspace(8, 2, 30, dtype=np.float32)[:, None]
    semseg = np.zeros((height, width), np.uint8)
    semseg[30:] = 1
    maps = {name: np.zeros((height, width), np.uint8) for name in ("human_parts", "sal", "edge")}
    normals = np.ones((3, height, width), np.float32)
    return maps | {
        "image": np.full((3, height, width), 100, np.uint8),
        "depth": depth,
        "semseg": semseg,
        "normals": normals,
    }


def test_a_thing_has_the_depth_of_the_floor_where_it_stands():
    maps, before = flat_room(), flat_room()
    thing = Image.new("RGBA", (10, 25), (0, 0, 255, 255))
    put(maps, thing, 45, 40)
    changed = np.zeros((60, 80), bool)
    changed[21:46, 35:45] = True
    assert (maps["depth"][changed] == before["depth"][45, 40]).all()
    assert (maps["image"][:, changed] == np.array([[0], [0], [255]])).all()
    assert (maps["semseg"][changed] == 255).all()
    assert (maps["normals"][:, changed] == 0).all()
    # 250 of 4800 pixels: large enough to be salient; its outline is one pixel wide.
    assert (maps["sal"][changed] == 1).all()
    assert maps["edge"].sum() == 2 * 10 + 2 * 23
    for name, value in before.items():
        assert (maps[name][..., ~changed] == value[..., ~changed]).all()


def test_what_is_nearer_hides_it():
    maps = flat_room()
    maps["depth"][20:40, 30:42] = 1.5
    put(maps, Image.new("RGBA", (10, 25), (0, 0, 255, 255)), 45, 40)
    assert (maps["depth"][21:40, 35:42] == 1.5).all()
    assert (maps["image"][:, 21:40, 35:42] == 100).all()
    assert (maps["image"][2, 21:46, 42:45] == 255).all()


def test_furnished_rooms_are_rooms_with_nearer_things(tmp_path):
    rooms, cutouts = SyntheticRooms((72, 96), 6, seed=11), [disc(tmp_path, 60, 80)]
    changed = 0
    for index in range(len(rooms)):
        maps, room = furnished(rooms, index, cutouts), rooms.render(index)
        again = furnished(rooms, index, cutouts)
        assert all((maps[name] == again[name]).all() for name in maps)
        assert (maps["depth"] <= room["depth"] + 0.02).all()
        unknown = maps["semseg"] == 255
        assert (maps["image"][:, ~unknown] == room["image"][:, ~unknown]).mean() > 0.9
        changed += unknown.any()
    assert 3 <= changed <= 5
