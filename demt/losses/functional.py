"""Losses of the six built-in tasks, as functions.

Every loss takes logits (B, C, H, W) and a label map of the same height and width, and returns a scalar: the mean over
labelled pixels, in float32 at least. Without one labelled pixel it is exactly 0 with exactly zero gradients. Whatever
stands in the logits at unlabelled pixels, NaN and infinity included, changes neither value nor gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from demt.labels import label_map, valid_mask
from demt.plugins import register_loss


@register_loss("cross_entropy")
def cross_entropy(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Softmax cross-entropy of class maps, averaged over labelled pixels.

    Args:
        logits: (B, C, H, W).
        target: Class ids, (B, H, W) or (B, 1, H, W), integers or whole floating-point numbers.
        ignore_index: Label of pixels to leave out.

    Example:
        >>> cross_entropy(torch.zeros(1, 4, 1, 2), torch.tensor([[[3, 255]]]))
        tensor(1.3863)
    """
    per_pixel, valid = _cross_entropy_map(logits, target, ignore_index)
    return _mean(per_pixel, valid)


@register_loss("balanced_cross_entropy")
def balanced_cross_entropy(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Two-class cross-entropy whose weights balance the classes within the batch (saliency).

    With p the share of foreground among the batch's n labelled pixels, a foreground pixel weighs 1 − p and a background
    pixel p; the weighted sum is divided by n (not by the sum of weights). Both classes then have the same total weight.

    Args:
        logits: (B, 2, H, W).
        target: 0 or 1, (B, H, W) or (B, 1, H, W).
        ignore_index: Label of pixels to leave out.
    """
    if logits.shape[1] != 2:
        raise ValueError(f"Expected two-class `logits` (B, 2, H, W), got {tuple(logits.shape)}")
    per_pixel, valid = _cross_entropy_map(logits, target, ignore_index)
    foreground = (label_map(target) == 1) & valid
    share = foreground.sum() / valid.sum().clamp_min(1)
    return _mean(per_pixel * torch.where(foreground, 1 - share, share), valid)


@register_loss("balanced_bce")
def balanced_bce(logits: Tensor, target: Tensor, *, pos_weight: float = 0.95, ignore_index: int = 255) -> Tensor:
    """Binary cross-entropy with a fixed weight w for the rare positive class (edges).

    −w·y·log σ(x) − (1 − w)·(1 − y)·log(1 − σ(x)), averaged over labelled pixels. Published w: 0.95 on PASCAL-Context,
    0.8 on NYUD-v2 (0.95 there too under the ``"invpt"`` protocol).

    Args:
        logits: (B, 1, H, W).
        target: In [0, 1], (B, H, W) or (B, 1, H, W).
        pos_weight: w, between 0 and 1.
        ignore_index: Label of pixels to leave out.
    """
    if not 0 < pos_weight < 1:
        raise ValueError(f"Expected `pos_weight` between 0 and 1 (exclusive), got {pos_weight}")
    target = label_map(target)
    valid = valid_mask(target, ignore_index)
    x = _quiet(label_map(logits), valid)
    y = target.to(x.dtype).masked_fill(~valid, 0)
    ratio = x.new_full((), pos_weight / (1 - pos_weight))
    per_pixel = F.binary_cross_entropy_with_logits(x, y, pos_weight=ratio, reduction="none")
    return (1 - pos_weight) * _mean(per_pixel, valid)


@register_loss("normals_l1")
def normals_l1(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """L1 distance of the unit-normalised prediction to the normal, summed over channels, mean over labelled pixels.

    Args:
        logits: (B, 3, H, W), of any length.
        target: Unit normals (B, 3, H, W). A pixel is left out when a component equals `ignore_index`, or when all are
            0: the zero vector is no direction.
        ignore_index: Label of pixels to leave out.
    """
    _same_shape(logits, target)
    valid = valid_mask(target, ignore_index) & (target != 0).any(1)
    # At a vector of zeros the norm has no derivative; ones are as good as anything where the pixel is left out.
    unit = F.normalize(_quiet(logits, valid[:, None], 1.0), dim=1)
    distance = (unit - target.to(unit.dtype).masked_fill(~valid[:, None], 0)).abs().sum(1)
    return _mean(distance, valid)


@register_loss("l1")
def l1(logits: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Mean absolute difference over labelled pixels, summed over channels (depth in its unit, e.g. metres).

    Args:
        logits: (B, C, H, W).
        target: (B, C, H, W), or (B, H, W) for C = 1.
        ignore_index: Label of pixels to leave out. A depth of 0 is a label here: mark missing depth with
            `ignore_index` when loading it.
    """
    target = target[:, None] if target.ndim == 3 else target
    _same_shape(logits, target)
    valid = valid_mask(target, ignore_index)
    x = _quiet(logits, valid[:, None])
    return _mean((x - target.to(x.dtype).masked_fill(~valid[:, None], 0)).abs().sum(1), valid)


def _cross_entropy_map(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    target = label_map(target)
    if logits.shape[-2:] != target.shape[-2:]:
        raise ValueError(
            f"Expected logits and labels of the same size, got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    valid = valid_mask(target, ignore_index)
    x = _quiet(logits, valid[:, None])
    return F.cross_entropy(x, target.long().masked_fill(~valid, 0), reduction="none"), valid


def _quiet(logits: Tensor, valid: Tensor, value: float = 0.0) -> Tensor:
    """Replace logits at unlabelled pixels before any arithmetic: 0 · NaN in the backward pass would be NaN."""
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return logits.masked_fill(~valid, value)


def _mean(per_pixel: Tensor, valid: Tensor) -> Tensor:
    return per_pixel.masked_fill(~valid, 0).sum() / valid.sum().clamp_min(1)


def _same_shape(logits: Tensor, target: Tensor) -> None:
    if logits.shape != target.shape:
        raise ValueError(f"Expected `target` of the logits' shape {tuple(logits.shape)}, got {tuple(target.shape)}")
