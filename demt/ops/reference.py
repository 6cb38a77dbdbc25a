"""The operators written out, one line per formula: slow, short, and what every faster path is compared with."""

import torch
import torch.nn.functional as F
from torch import Tensor


def deform_sample_reference(x: Tensor, offset: Tensor) -> Tensor:
    """Sample every channel at its own, per-pixel displaced position, from the four corners of the formula.

    Shapes, units and meaning are those of `demt.ops.deform_sample`; memory is about 20 maps of `x`'s size.
    A NaN offset gives NaN.

    Example:
        >>> x = torch.arange(6.0).reshape(1, 1, 2, 3)
        >>> half_a_pixel_right = torch.tensor([0.0, 0.5]).reshape(1, 2, 1, 1).expand(1, 2, 2, 3)
        >>> deform_sample_reference(x, half_a_pixel_right)[0, 0].tolist()
        [[0.5, 1.5, 1.0], [3.5, 4.5, 2.5]]
    """
    batch, channels, height, width = x.shape
    groups = offset.shape[1] // 2
    dy, dx = offset.reshape(batch, groups, 2, height, width).repeat_interleave(channels // groups, dim=1).unbind(2)
    rows = torch.arange(height, device=x.device, dtype=offset.dtype).reshape(height, 1)
    cols = torch.arange(width, device=x.device, dtype=offset.dtype)
    # Everything beyond two pixels outside samples zero; the clamp keeps infinity out of the weights.
    py, px = (rows + dy).clamp(-2, height + 1), (cols + dx).clamp(-2, width + 1)
    top, left = py.floor(), px.floor()
    y = torch.zeros_like(py)
    for row, row_weight in ((top, 1 - (py - top)), (top + 1, py - top)):
        for col, col_weight in ((left, 1 - (px - left)), (left + 1, px - left)):
            inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
            index = torch.where(inside, row * width + col, 0).long().reshape(batch, channels, -1)
            corner = x.reshape(batch, channels, -1).gather(2, index).reshape(x.shape)
            y = y + row_weight * col_weight * torch.where(inside, corner, 0)
    return y.to(x.dtype)


def deform_mix_reference(
    x: Tensor, hidden: Tensor, offset_weight: Tensor, offset_bias: Tensor | None, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Convolve the hidden map to offsets, sample `x` there, mix the channels; see `demt.ops.deform_mix`."""
    offset = F.conv2d(hidden, offset_weight, offset_bias, padding=1, groups=2)
    return F.conv2d(deform_sample_reference(x, offset), weight[:, :, None, None], bias)
