"""What a run starts from, as its model card says it."""

import pytest
import torch

import demt
from demt.tasks import DATASETS
from demt.train import recipe_from
from demt.train.start import make_model

TASKS = DATASETS["rooms"]


@pytest.mark.parametrize(
    ("part", "said", "same"),
    [
        ({"name": "demt_nano.rooms", "pretrained_backbone": False}, "random numbers", False),
        ({"name": "demt_nano.rooms", "pretrained": True}, "demt_nano.rooms", True),
        ({"name": "demt_nano.rooms", "pretrained": None}, "demt_nano.rooms", True),
        ({"name": "local-dir:saved"}, "local-dir:saved", True),
        ({"name": "saved/."}, "saved/.", True),
        (
            {"name": "demt_nano", "pretrained_backbone": False, "init": "demt_nano.rooms"},
            "demt_nano.rooms where shapes fit, else random numbers",
            True,
        ),
        (
            {"name": "demt_nano", "pretrained_backbone": "backbone.safetensors"},
            "backbone.safetensors in the backbone, all else random",
            False,
        ),
    ],
)
def test_a_card_says_what_a_run_starts_from(part, said, same, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = demt.create_model("demt_nano.rooms", pretrained=True)
    if "saved" in part["name"]:
        packaged.save_pretrained("saved")
    if part.get("pretrained_backbone"):
        from safetensors.torch import save_file

        save_file(packaged.backbone.state_dict(), "backbone.safetensors")
    recipe = recipe_from({"model": part, "data": {"dataset": "rooms"}})
    model, words = make_model(recipe, recipe.data, TASKS)
    assert words == said
    head, expected = (m.head.heads["depth"].logits.weight for m in (model, packaged))
    assert torch.equal(head, expected) is same
    if said != "random numbers":
        first, expected = (next(m.backbone.parameters()) for m in (model, packaged))
        assert torch.equal(first, expected)
