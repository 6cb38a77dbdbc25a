"""Every number and every choice of a recipe is checked when the recipe is read, with one line that names it."""

import dataclasses
import types
from typing import Annotated, Union, get_args, get_origin, get_type_hints

import pytest

from demt.train import Recipe, load_recipe, recipe_from
from demt.train.ranges import OneOf, Range
from demt.train.recipe import DataPart, ModelPart, OptimPart

PARTS = {"": Recipe, "model.": ModelPart, "data.": DataPart, "optim.": OptimPart}


def leaves(hint):
    """The plain types in a type, each with what limits it."""
    kind = get_origin(hint)
    if kind is Annotated:
        inner, *limits = get_args(hint)
        return [(inner, limits)]
    if kind in (Union, types.UnionType, tuple, dict):
        return [leaf for option in get_args(hint) for leaf in leaves(option)]
    return [(hint, [])]


# Texts that mean a place or something of the user's, and what is looked at where it is opened.
FREE = {"model.name", "model.pretrained_backbone", "model.init", "out", "best"}
FREE |= {"data.root", "data.index", "data.images", "data.subset", "data.revision", "data.train_split", "data.val_split"}
FREE |= {"data.layout", "data.encodings", "data.columns", "data.sources", "model.args", "loss_weights"}
# Names of parts of the model, looked at where the optimiser is made.
FREE |= {"optim.lr_factors", "model.only"}


def test_no_number_and_no_name_is_without_a_limit():
    for prefix, part in PARTS.items():
        for name, hint in get_type_hints(part, include_extras=True).items():
            for kind, limits in leaves(hint):
                if kind in (int, float):
                    assert any(isinstance(limit, Range) for limit in limits), f"{prefix}{name}"
                if kind is str and f"{prefix}{name}" not in FREE:
                    assert any(isinstance(limit, OneOf) for limit in limits), f"{prefix}{name}"


def numbers():
    """Each field with numbers, the numbers it must not have, and how such a value is written."""
    for prefix, part in PARTS.items():
        for name, hint in get_type_hints(part, include_extras=True).items():
            for kind, limits in leaves(hint):
                for limit in limits:
                    if isinstance(limit, Range):
                        yield f"{prefix}{name}", kind, limit, hint
                        break


@pytest.mark.parametrize(("field", "kind", "limit", "hint"), list(dict.fromkeys(numbers())))
def test_numbers_out_of_range(field, kind, limit, hint):
    outside = [limit.least if limit.without_least else limit.least - 1, -(10**30)]
    if limit.most < 10**30:
        outside += [limit.most if limit.without_most else limit.most + 1]
    if kind is float:
        outside += [".nan", ".inf", "-.inf"]
    for value in outside:
        value = f"{value:.0f}" if isinstance(value, float) else value
        text = f"[{value}, {value}]" if "tuple" in str(hint) else f"{{edge: {value}}}" if "dict" in str(hint) else value
        with pytest.raises(ValueError, match=f"`{field}") as raised:
            load_recipe("finetune", [f"{field}={text}"])
        message = str(raised.value)
        assert "\n" not in message
        assert str(limit) in message


@pytest.mark.parametrize(
    ("recipe", "change", "message"),
    [
        ("rooms", "optim.name=foo", "`optim.name` to be a name that is known, got 'foo'"),
        ("rooms", "optim.name=adamx", r"did you mean \['adam"),
        ("rooms", "trackers=[tensorbord]", r"`trackers` .* got 'tensorbord'; did you mean \['tensorboard'"),
        ("rooms", "optim.schedule=step", "`optim.schedule` to be one of"),
        ("rooms", "precision=half", "`precision` to be one of"),
        ("rooms", "balancing=equal", "`balancing` to be one of"),
        ("rooms", "data.variation=weak", "`data.variation` to be one of"),
        ("rooms", "data.on_error=ignore", "`data.on_error` to be one of"),
        ("rooms", "data.dataset=kitti", "`data.dataset` to be one of"),
        ("rooms", "data.zoom=[2, 1]", "`data.zoom` to be the lowest and the highest factor"),
        ("rooms", "data.val_length=0", "`data.val_length` to name something to evaluate on, got 0"),
        ("rooms", "data.tasks=[semseg, semseg]", "each once, got \\['semseg', 'semseg'\\]"),
        ("rooms", "data.tasks=[semsge]", "`data.tasks` to name some of .* got \\['semsge'\\]"),
        ("rooms", "data.tasks=[]", "`data.tasks` to name some of"),
        ("rooms", "data.tasks=semseg", "to be a list of names"),
        ("nyud", "data.tasks=[depth, human_parts]", "`data.tasks` to name some of"),
        ("nyud", "data.protocol=atcr", "`data.protocol` .* got 'atcr'; did you mean \\['atrc'\\]"),
        ("nyud", "data.protocol=mtan", "`data.protocol` of nyud to be one of"),
        ("cityscapes", "data.protocol=atrc", "`data.protocol` of cityscapes to be one of"),
        ("nyud", "data.layout=raw", "`layout` of 'nyud' to be 'auto' or one of"),
        ("nyud", "data.max_size=100", "`data.max_size` for own data and rooms only"),
        ("finetune", "data.tasks=semseg=5,semseg=6", "each name once"),
        ("finetune", "data.tasks=semseg=0", "`channels` of task 'semseg'"),
        ("finetune", "data.tasks={height: 1}", "Unknown task 'height'"),
        ("finetune", "data.tasks=[semseg, depth]", "`data.tasks`, such as semseg=5,depth"),
        ("finetune", "data.encodings=depth=feet", "Unknown encoding 'feet'"),
        ("finetune", "data.encodings=edge=grey", "`encodings` names \\['edge'\\]"),
        ("finetune", "data.columns=edge=x", "`data.columns` names \\['edge'\\]"),
        ("finetune", "data.val_ids=[]", "`data.val_ids` to name something to evaluate on"),
        ("finetune", "data={dataset: hub, val_split: null}", "`data.val_split` to name something to evaluate on"),
        ("finetune", "data.sources=[{dataset: rooms, length: 0}]", r"`data.sources\[0\].length` >= 1, got 0"),
        ("finetune", "data.sources=[{dataset: rooms, weight: 0}]", r"`data.sources\[0\].weight` > 0, got 0"),
        ("finetune", "data.sources=[{dataset: rooms, tasks: [edge, edge]}]", "each once"),
    ],
)
def test_names_and_what_must_fit_together(recipe, change, message):
    with pytest.raises(ValueError, match=message) as raised:
        load_recipe(recipe, [change])
    assert "\n" not in str(raised.value)


def test_python_is_checked_as_files_are():
    with pytest.raises(ValueError, match=r"`optim\.lr` > 0, got '1e-4'"):
        OptimPart(lr="1e-4")
    with pytest.raises(ValueError, match=r"`data\.workers` in \[0, 1024\], got True"):
        DataPart(workers=True)
    with pytest.raises(ValueError, match=r"`model\.backbone` to be one of"):
        ModelPart(backbone="frozen")
    with pytest.raises(ValueError, match="`keep` >= 1, got 0"):
        dataclasses.replace(Recipe(), keep=0)


def test_what_fits_is_taken():
    for change in ("optim.name=lookahead_adamw", "optim.name=momentum", "trackers=[tensorboard]", "ema=0"):
        load_recipe("rooms", [change])
    load_recipe("rooms", ["data.tasks=[depth, semseg]", "data.zoom=[1, 1]", "optim.momentum=0", "data.workers=0"])
    mixed = {"sources": [{"dataset": "rooms", "val_length": 0}, {"dataset": "rooms"}], "tasks": None}
    recipe_from({"data": mixed})


def test_a_setting_that_stands_twice(tmp_path):
    (tmp_path / "twice.yaml").write_text("optim:\n  lr: 1\n  lr: 2\n")
    with pytest.raises(ValueError, match="'lr' stands twice in line 2") as raised:
        load_recipe(tmp_path / "twice.yaml")
    assert "\n" not in str(raised.value)
    (tmp_path / "merged.yaml").write_text("optim: &a\n  lr: 1\ndata:\n  workers: 0\n")
    assert load_recipe(tmp_path / "merged.yaml").optim.lr == 1
