"""Networks of too many modules are given up while they are built, whatever asks for them."""

import threading
import time

import pytest
import torch
from torch import nn

import demt
from demt.config import ModelConfig
from demt.models.limits import MAX_MODULES, limited_modules


@pytest.mark.parametrize(
    ("backbone", "kwargs"),
    [
        ("swin_tiny_patch4_window7_224", {"depths": [2, 2, 8192, 2]}),
        ("vit_tiny_patch16_224", {"depth": 8192}),
        ("convnext_atto", {"depths": [8192] * 4}),
    ],
)
def test_backbones(backbone, kwargs):
    with torch.device("meta"), pytest.raises(ValueError, match="at most 4,096 modules"):
        demt.create_model("demt", backbone=backbone, tasks={"depth": 1}, backbone_kwargs=kwargs)


@pytest.mark.parametrize(
    ("backbone", "kwargs", "said"),
    [
        ("tiny_vit_5m_224", {"window_sizes": [7, 7, 64, 7]}, "window_sizes"),
        ("efficientvit_m0", {"img_size": 512, "window_size": [64, 64, 64]}, "window_size"),
        ("maxvit_tiny_tf_224", {"transformer_window_size": 256}, "transformer_window_size"),
        ("maxvit_tiny_tf_224", {"img_size": 8192}, "img_size"),
        ("maxvit_tiny_tf_224", {"transformer_partition_ratio": 1}, "transformer_partition_ratio"),
        ("maxvit_tiny_tf_224", {"transformer_partition_ratio": 16, "img_size": 4096}, "from 32 to 8192, got 16"),
        ("maxvit_tiny_tf_224", {"transformer_partition_ratio": 0}, "from 8 to 8192, got 0"),
        ("maxvit_tiny_tf_224", {"transformer_grid_size": 64}, "transformer_grid_size"),
        ("levit_128s", {"img_size": 2048}, "4.9 GiB of tables"),
    ],
)
def test_sizes_of_backbones(backbone, kwargs, said):
    """Loops over all pairs of pixels of a window, and tables of all pairs of pixels of an image."""

    def outline():
        config = ModelConfig(family="demt", backbone=backbone, tasks={"depth": 1}, backbone_kwargs=kwargs)
        demt.MultiTaskModel.outline(config, "model.safetensors")

    start = time.process_time()
    with pytest.raises(ValueError, match=said):
        outline()
    assert time.process_time() - start < 30


def test_many_tasks_of_many_blocks():
    tasks = {f"t{number}": {"channels": 1} for number in range(64)}
    with torch.device("meta"), pytest.raises(ValueError, match="at most 4,096 modules"):
        demt.create_model("demt_nano", tasks=tasks, depth=64)


def test_other_threads_and_later_modules_are_not_counted():
    def build():
        nn.Sequential(*(nn.Identity() for _ in range(MAX_MODULES + 1)))

    with limited_modules():
        thread = threading.Thread(target=build)
        thread.start()
        thread.join()
        nn.Sequential(nn.Identity())
    build()
    with pytest.raises(ValueError, match="modules"), limited_modules():
        build()
    build()
