"""The weights in the package: small, loaded without a network, and far better than a constant."""

import pytest
import torch

import demt
from demt.data import SyntheticRooms
from demt.data.transforms import eval_transform
from demt.models.variants import PACKAGED
from demt.train import evaluate
from demt.train.run import make_metrics
from tests.train.constant import constant_results


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_weights(name, tmp_path):
    assert PACKAGED[name].stat().st_size < 1e7
    assert name in demt.list_models(pretrained=True)
    model = demt.create_model(name, pretrained=True)
    assert all(value.dtype == torch.float32 for value in model.parameters())
    size = model.pretrained_cfg.input_size[1:]
    images = {"mean": model.pretrained_cfg.mean, "std": model.pretrained_cfg.std}
    val = SyntheticRooms(size, 12, 3, transform=eval_transform(**images))
    found = evaluate(model, val, metrics=make_metrics(val.tasks, "rooms", None), batch_size=4)
    constant = constant_results(SyntheticRooms(size, 40, 0), val, 40)
    for metric in ("semseg/miou", "human_parts/miou", "sal/maxf", "edge/odsF"):
        assert found[metric] > 1.5 * constant[metric], (metric, found[metric], constant[metric])
    for metric in ("depth/rmse", "normals/mean"):
        assert found[metric] < 0.7 * constant[metric], (metric, found[metric], constant[metric])
    assert model.pretrained_cfg.trained_on
    assert demt.create_model(name).pretrained_cfg.trained_on is None
    model.save_pretrained(tmp_path)
    assert '"file"' not in (tmp_path / "config.json").read_text()
    tuned = demt.create_model(name, pretrained=True, tasks={"semseg": 5, "depth": 1})
    assert torch.equal(tuned.state_dict()["backbone.conv_stem.weight"], model.state_dict()["backbone.conv_stem.weight"])
