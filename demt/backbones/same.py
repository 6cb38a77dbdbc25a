"""TensorFlow's padding ("same") on maps whose sides are multiples of the stride, where it does not depend on them."""

from __future__ import annotations

from timm.layers import Conv2dSame
from torch import Tensor
from torch.nn import functional as F


class FixedSameConv2d(Conv2dSame):
    """timm's `Conv2dSame` for sides that are multiples of the stride, as those of padded images are.

    There it pads (k - 1)·d + 1 - s in all, the smaller half at the top and left. timm computes it from the size,
    and a graph that is captured with open sizes drowns in the conditions.
    """

    def forward(self, x: Tensor) -> Tensor:
        sides: list[int] = []
        for kernel, dilation, stride in reversed(list(zip(self.kernel_size, self.dilation, self.stride))):
            total = max((kernel - 1) * dilation + 1 - stride, 0)
            sides += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, sides), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
