"""TensorFlow's padding, computed once, against timm's, computed for each map."""

import pytest
import timm
import torch

from demt.backbones import create_backbone


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_mixnet_s"])
def test_padding_of_tensorflow_is_timms(name):
    """Kernels of 3 to 11, at a size that is no multiple of 64."""
    source = timm.create_model(name).eval()
    backbone = create_backbone(name).eval()
    backbone.load_state_dict(source.state_dict(), strict=False)
    images = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        levels = backbone(images)
        maps = source.forward_intermediates(images, indices=[1, 2, 3, 4], intermediates_only=True)
    for level, expected in zip(levels, maps, strict=True):
        torch.testing.assert_close(level, expected)
