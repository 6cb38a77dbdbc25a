"""Inference-only rewrites: a model with the same numbers and fewer operations, which can no longer be trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from demt.hub.pretrained import PretrainedModel
from demt.layers import DetailRefinement, TaskHead, TaskInteractionBlock, TaskQueryBlock
from demt.models import MultiTaskModel
from demt.ops.pointwise import compose

#: Largest deviation that `fuse` accepts, of an output's standard deviation; rounding alone stays below a tenth of it.
TOLERANCE = 1e-3


def fuse(model: MultiTaskModel) -> MultiTaskModel:
    """Fold what does not depend on the image into the weights: a copy of the model, for inference only.

    Batch norms go into the convolutions before them (task heads, convolutional backbones), the linear maps of a
    ``"pointwise"`` interaction become one, and so do those behind the attention of each query block. The result is
    compared with the model on a random image before it is returned.

    Args:
        model: Stays as it is.

    Returns:
        A model in eval mode whose parameters need no gradient. It cannot be trained or saved.

    Raises:
        ValueError: if `model` is no demt model, is fused already, or its copy would not give the same numbers.

    Example:
        >>> import demt
        >>> fused = demt.fuse(demt.create_model("degmix_nano", tasks={"depth": 1}))
        >>> fused.training
        False
    """
    if not isinstance(model, MultiTaskModel):
        raise ValueError(f"Expected `model` to be a demt model, got {type(model).__name__}; see demt.create_model")
    if isinstance(model, FusedModel):
        raise ValueError("Expected `model` as it was created, got one that is fused already")
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        images = _noise(copied)
        expected = copied(images)
        for module in list(copied.modules()):
            _fold(module)
        fused = FusedModel(copied)
        _compare(expected, fused(images))
    return fused


class FusedModel(MultiTaskModel):
    """What `fuse` returns: the backbone and head of a model whose modules were folded, for inference only.

    Args:
        model: To be thrown away: the fused model has its parts.

    Raises:
        ValueError: on an attempt to train, save or publish it, or to give it other heads.
    """

    def __init__(self, model: MultiTaskModel) -> None:
        # Not `MultiTaskModel`'s own, which would build a backbone and a head of the configuration.
        PretrainedModel.__init__(self, model.config, model.pretrained_cfg)
        self.backbone, self.head = model.backbone, model.head
        self.eval()

    def train(self, mode: bool = True) -> FusedModel:
        if mode:
            raise ValueError("A fused model is for inference only: train the model it was made from")
        super().train(False)
        return self

    def save_pretrained(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError("A fused model has other weights than its configuration says: save the model it was made from")

    push_to_hub = reset_heads = save_pretrained


def _fold(module: nn.Module) -> None:
    if isinstance(module, (TaskHead, DetailRefinement)):
        _fold_norm(module, "conv", "norm")
    elif isinstance(module, TaskInteractionBlock) and module.attention == "pointwise":
        _compose(module, "value", "proj", "linear")
    elif isinstance(module, TaskQueryBlock):
        _compose(module, "proj", "linear")
    elif isinstance(module, nn.Sequential):
        for first in range(len(module) - 1):
            _fold_norm(module, str(first), str(first + 1))
    else:
        # timm's residual blocks name their pairs conv1 and bn1, conv2 and bn2…
        for name in [name for name, _ in module.named_children() if name.startswith("conv")]:
            _fold_norm(module, name, f"bn{name[4:]}")


def _fold_norm(module: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = module._modules.get(conv_name), module._modules.get(norm_name)
    if isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d:
        setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
        setattr(module, norm_name, nn.Identity())


def _compose(module: nn.Module, first: str, *others: str) -> None:
    """Multiply linear layers that follow one another into the first; `nn.Identity` takes the place of the others."""
    weight, bias = compose([getattr(module, name) for name in (first, *others)])
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta", dtype=weight.dtype)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    for name in others:
        setattr(module, name, nn.Identity())
    setattr(module, first, layer)


def _noise(model: MultiTaskModel) -> Tensor:
    like = next(model.head.parameters())
    side = 4 * max(model.backbone.strides)
    noise = torch.randn(1, model.config.in_chans, side, side, generator=torch.Generator().manual_seed(0))
    return noise.to(like.device, like.dtype)


def _compare(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    for name, value in expected.items():
        # Half precision rounds more than folding changes.
        tolerance = TOLERANCE if value.dtype in (torch.float32, torch.float64) else 0.1
        deviation = (got[name] - value).float().square().mean().sqrt() / value.float().std().clamp_min(1e-12)
        if not deviation <= tolerance:
            raise ValueError(
                f"The fused model's {name!r} deviates from the model's by {deviation:.2g} of its standard deviation; "
                "its backbone may use a convolution and batch norm other than one after the other. Use it unfused"
            )
