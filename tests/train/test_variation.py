"""Recipes with rooms that are drawn larger than they are learnt, and that look very different each time."""

import pytest

from demt.train import load_recipe, open_dataset

SMALL = ["data.size=[24, 32]", "data.length=2", "data.val_length=1"]


def opened(split, *changes):
    return open_dataset(load_recipe("rooms", [*SMALL, *changes]).data, split)


def test_rooms_are_cropped_in_training_and_whole_in_evaluation():
    assert opened("train", "data.render=[48, 64]")[0]["image"].shape == (3, 24, 32)
    assert opened("val", "data.render=[48, 64]")[0]["image"].shape == (3, 48, 64)
    assert opened("train", "data.render=[48, 64]", "data.augment=false")[0]["image"].shape == (3, 48, 64)


def test_zoom_divides_the_depth_of_rooms():
    plain = opened("val", "data.render=[48, 64]").read(0)["depth"]
    data = load_recipe("rooms", [*SMALL, "data.render=[48, 64]", "data.zoom=[0.5, 0.5]"]).data
    zoomed = open_dataset(data, "train").transform
    depth = zoomed(opened("val", "data.render=[48, 64]").read(0))["depth"]
    assert float(depth.median()) == pytest.approx(2 * float(plain.median()), rel=0.05)


def test_variation_by_name():
    steps = {v: repr(opened("train", f"data.variation={v}").transform) for v in ("usual", "strong")}
    assert "PhotometricDistortion" in steps["usual"]
    assert "RandomTexture" in steps["strong"]
    assert "PhotometricDistortion" not in steps["strong"]
    with pytest.raises(ValueError, match=r"data\.variation"):
        opened("train", "data.variation=wild")
