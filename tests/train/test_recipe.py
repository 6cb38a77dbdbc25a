"""Recipes: the published ones, and errors that say what is wrong."""

import re

import pytest
import yaml

from demt.train import Recipe, list_recipes, load_recipe, recipe_from
from demt.train.reading import recipe_dict, recipe_yaml


def test_published_recipes():
    assert list_recipes() == [
        "cityscapes",
        "finetune",
        "nyud",
        "nyud_dinov2",
        "nyud_dinov2_frozen",
        "nyud_tuning",
        "pascal",
        "photos_lite",
        "rooms",
        "rooms_lite",
        "rooms_nano",
        "rooms_refined",
    ]
    for name in ("nyud", "pascal"):
        recipe = load_recipe(name)
        optim = recipe.optim
        assert (optim.name, optim.lr, optim.momentum, optim.weight_decay) == ("momentum", 1e-3, 0.9, 5e-4)
        assert (optim.schedule, optim.power, optim.layer_decay, optim.decay_all) == ("poly", 0.9, None, True)
        assert (recipe.steps, recipe.batch_size, recipe.model.sync_bn) == (40000, 8, True)
    assert load_recipe("nyud_tuning").model.backbone == "freeze"


@pytest.mark.parametrize("name", list_recipes())
def test_round_trip(name, tmp_path):
    recipe = load_recipe(name)
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(recipe))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe == recipe_from(recipe_dict(recipe))


def test_changes():
    changes = ["optim.lr=1e-4", "ema=null", "data.size=[64, 96]", "model.args.width=32", "loss_weights.edge=2"]
    recipe = load_recipe("finetune", [*changes, "precision=no", "model.compile=true"])
    assert (recipe.optim.lr, recipe.ema, recipe.data.size, recipe.model.compile) == (1e-4, None, (64, 96), True)
    assert load_recipe("rooms_lite", ["model.pretrained_backbone=w.pth"]).model.pretrained_backbone == "w.pth"
    assert (recipe.model.args, recipe.loss_weights, recipe.precision) == ({"width": 32}, {"edge": 2.0}, "no")
    assert recipe_from({}) == Recipe()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optim.learning_rate=1", r"Unknown name `optim.learning_rate`"),
        ("optim.momentun=1", r"did you mean \['momentum'"),
        ("steps=many", r"Expected `steps` to be int, got 'many'"),
        ("steps=0", r"Expected `steps` >= 1, got 0"),
        ("steps", r"NAME=VALUE"),
        ("steps.more=1", r"`steps.more` cannot be set: `steps` is 5000"),
        ("model.backbone=frozen", r"`model.backbone` to be one of \('train', 'freeze', 'lora'\), got 'frozen'"),
        ("data.size=[1,2,3]", r"`data.size` to have 2 entries"),
        ("data.size=5", r"`data.size` to be a list, got 5"),
        ("ema=1", r"`ema` in \[0, 1\)"),
        ("accumulate=3", r"multiple of `accumulate`, got 8 and 3"),
        ("optim.warmup=5000", r"`optim.warmup` below `steps`"),
        ("model.pretrained_backbone=1", r"Expected `model.pretrained_backbone` to be bool or str, got 1"),
        ("model.pretrained_backbone=null", r"`model.pretrained_backbone` to be bool or str, got None"),
        ("optim=adamw", r"Expected optim. to be a mapping|`?optim"),
        ("steps=[", r"not valid YAML"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("finetune", [change])


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No recipe or file 'nyuv2'; recipes are \['cityscapes'"):
        load_recipe("nyuv2")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_recipe(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(ValueError, match="mapping"):
        load_recipe(tmp_path / "list.yaml")


def test_comments_say_what_every_setting_is():
    recipe = load_recipe("rooms", ["optim.lr=1e-5"])
    text = recipe_yaml(recipe, comments=True)
    assert recipe_from(yaml.safe_load(text)) == recipe
    before, silent = "", []
    for line in text.splitlines():
        if re.match(r"(  )?[a-z_]+:", line) and not before.lstrip().startswith("#"):
            silent.append(line.strip().partition(":")[0])
        before = line
    # Headings, and settings that share the comment above.
    names = "model lora_alpha data index images val_ids subset revision val_split val_length optim save_every log_every"
    assert silent == names.split()
