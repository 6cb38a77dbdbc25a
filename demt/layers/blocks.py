"""The blocks of DeMT, DeMTG and DeGMix in the order in which a map goes through them.

Xu et al., DeMT, AAAI 2023 (arXiv 2301.03461); Xu et al., DeMTG and DeGMix (arXiv 2308.05721). Numbers in brackets are
equations of the first. x is a map (B, D, H, W) of one task, S stacks those of T tasks: (B, T, D, H, W). What is written
for speed lies in `demt.ops`, each function beside a plain one that computes the same: `per_pixel(x, f, g)` is g(f(x)).
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demt.config import InitialOffsets, InteractionAttention, QueryAttention
from demt.layers.attention import attention_function, query_and_key
from demt.ops import (
    Query,
    deform_mix,
    float32_convolution,
    per_pixel,
    resize,
)
from demt.ops.checks import check_choice, check_divides, check_maps, check_positive


class ChannelMixer(nn.Module):
    """Channel-aware mixing [2]: BN(GELU(Conv1×1(x))).

    Args:
        channels: Channels of the input map.
        out_channels: Channels of the output map; as the input by default.

    Shape:
        (B, channels, H, W) to (B, out_channels, H, W).

    Raises:
        ValueError: for numbers of channels below 1, or an input whose shape or dtype does not fit.

    Example:
        >>> import torch
        >>> ChannelMixer(8, 16)(torch.randn(2, 8, 5, 7)).shape
        torch.Size([2, 16, 5, 7])
    """

    def __init__(self, channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        check_positive(channels=channels, out_channels=out_channels)
        self.channels = channels
        self.conv = nn.Conv2d(channels, out_channels, 1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        check_maps("x", x, self.channels, (4,))
        return per_pixel(x, self.conv, F.gelu, self.norm)


class SpatialDeformable(nn.Module):
    """Spatial-aware deformable operator [3, 4]: a deformable 1×1 convolution with one offset per channel.

    With u = Conv3×3(x) (18 channels, weight initially zero) and g the 1-based rows and columns of the 3×3
    neighbourhood (9 + 9 channels), offsets are Δ = Conv3×3(u + g) in two groups: the first half of the offset channels
    sees rows, the second half columns. Channel c of group k is sampled bilinearly at (i + Δ[2k], j + Δ[2k + 1]), zero
    outside the map, and the sampled channels are mixed by a 1×1 convolution. As the released models compute it.

    Args:
        channels: Channels D of the input map.
        out_channels: Channels of the output map; D by default.
        offset_groups: Number of channel groups that share an offset; by default D (one offset per channel).
        initial_offsets: ``"released"``: the default initialisation of a convolution, with which offsets start large,
            the more so the larger the map; ``"zero"``: sampling starts at the pixel itself.

    Shape:
        (B, D, H, W) to (B, out_channels, H, W), any H and W from 1.

    Raises:
        ValueError: if `offset_groups` does not divide `channels`, or the input's shape or dtype does not fit.

    Example:
        >>> import torch
        >>> SpatialDeformable(8, 16, initial_offsets="zero")(torch.randn(2, 8, 5, 7)).shape
        torch.Size([2, 16, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        offset_groups: int | None = None,
        initial_offsets: InitialOffsets = "released",
    ) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        offset_groups = channels if offset_groups is None else offset_groups
        check_positive(channels=channels, out_channels=out_channels)
        check_divides("offset_groups", offset_groups, "channels", channels)
        check_choice("initial_offsets", initial_offsets, ("released", "zero"))
        self.channels = channels
        self.position = nn.Conv2d(channels, 18, 3, padding=1)
        self.offset = nn.Conv2d(18, 2 * offset_groups, 3, padding=1, groups=2)
        self.proj = nn.Conv2d(channels, out_channels, 1)
        nn.init.zeros_(self.position.weight)
        if initial_offsets == "zero":
            for parameter in (self.position.bias, self.offset.weight, self.offset.bias):
                assert parameter is not None
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        check_maps("x", x, self.channels, (4,))
        # Δ = Conv(u + g), then W · x(p + Δ): the 2D channels of Δ are used as they are made, and never stored.
        offset, proj = self.offset, self.proj
        return deform_mix(x, self._u_plus_g(x), offset.weight, offset.bias, proj.weight[..., 0, 0], proj.bias)

    def offsets(self, x: Tensor) -> Tensor:
        """Offsets Δ (B, 2·groups, H, W) in pixels; float32 at least, as half precision cannot hold coordinates."""
        return float32_convolution(self._u_plus_g(x), self.offset)

    def _u_plus_g(self, x: Tensor) -> Tensor:
        u = float32_convolution(x, self.position)
        return u + neighbourhood_grid(x.shape[-2], x.shape[-1], u.dtype, u.device)


def neighbourhood_grid(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The 18-channel grid g (1, 18, H, W): 1-based rows i + dy, then columns j + dx, of the 3×3 neighbours in order."""
    rows, columns = (torch.arange(1, side + 1, dtype=dtype, device=device) for side in (height, width))
    step = torch.arange(-1, 2, dtype=dtype, device=device)
    dy, dx = step.repeat_interleave(3).view(9, 1, 1), step.repeat(3).view(9, 1, 1)
    g = [(rows[:, None] + dy).expand(9, height, width), (columns + dx).expand(9, height, width)]
    return torch.cat(g)[None]


class DeformableMixerBlock(nn.Module):
    """One step of the encoder: x ← ChannelMixer(x), then x ← x + BN(GELU(SpatialDeformable(x))).

    Args:
        channels: Channels D of the map.
        offset_groups, initial_offsets: See `SpatialDeformable`.

    Shape:
        (B, D, H, W) to (B, D, H, W).

    Raises:
        ValueError: as `SpatialDeformable` does.
    """

    def __init__(
        self, channels: int, *, offset_groups: int | None = None, initial_offsets: InitialOffsets = "released"
    ) -> None:
        super().__init__()
        self.channel = ChannelMixer(channels)
        self.spatial = SpatialDeformable(channels, offset_groups=offset_groups, initial_offsets=initial_offsets)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.channel(x)
        return per_pixel(self.spatial(x), F.gelu, self.norm, residual=x, made_by=self.spatial)


class DeformableMixer(nn.Module):
    """The deformable mixer encoder of one task: `depth` blocks. DeMT, figure 2 and equations 2-4.

    Args:
        channels: Channels D of the map.
        depth: Number of blocks (released: 1 in DeMT, 2 in DeMTG and DeGMix).
        offset_groups, initial_offsets: See `SpatialDeformable`.

    Shape:
        (B, D, H, W) to (B, D, H, W).

    Raises:
        ValueError: for `channels` or `depth` below 1, and as `SpatialDeformable` does.

    Example:
        >>> import torch
        >>> DeformableMixer(8, depth=2)(torch.randn(2, 8, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        *,
        depth: int = 1,
        offset_groups: int | None = None,
        initial_offsets: InitialOffsets = "released",
    ) -> None:
        super().__init__()
        check_positive(channels=channels, depth=depth)
        self.blocks = nn.Sequential(
            *(
                DeformableMixerBlock(channels, offset_groups=offset_groups, initial_offsets=initial_offsets)
                for _ in range(depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.blocks(x)
        return mixed


class TaskInteractionBlock(nn.Module):
    """Fuses the maps of all tasks [5]: F = LN(Linear(MHSA(S))).

    Args:
        channels: Channels D of the maps.
        heads: Attention heads (``"pointwise"`` has none; released: 4 in DeMT, 2 in DeMTG and DeGMix).
        attention: ``"global"``: self-attention over all T·H·W tokens of an image, as in the papers;
            ``"pointwise"``: each token attends to itself alone, which is what the released models compute. The
            attention is then its value and output projection, and the block has no query and key parameters.
            At linear cost, of other papers: ``"window"``: over the tokens of a `window` × `window` window of all tasks
            (`demt.ops.window_attention`); ``"deformable"``: over T·`points` learnt points per head
            (`demt.ops.deformable_attention`), which start on rays around the pixel, with equal weights.
        window, shift: Side of the windows in pixels, and how far they are shifted: less than `window`.
        points: Points of a head in the map of each task.

    Shape:
        Task-stacked (B, T, D, H, W), or (B, D, H, W) for one task, to the same shape.

    Raises:
        ValueError: if `heads` does not divide `channels`, for an unknown `attention` or numbers that do not fit, or an
            input whose shape or dtype does not fit.

    Example:
        >>> import torch
        >>> TaskInteractionBlock(8, heads=2, attention="global")(torch.randn(2, 3, 8, 5, 7)).shape
        torch.Size([2, 3, 8, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 4,
        attention: InteractionAttention = "pointwise",
        window: int = 8,
        shift: int = 0,
        points: int = 4,
    ) -> None:
        super().__init__()
        check_divides("heads", heads, "channels", channels)
        check_choice("attention", attention, get_args(InteractionAttention))
        self.channels, self.heads, self.attention = channels, heads, attention
        if attention != "pointwise":
            self.attend = attention_function(attention, heads, window=window, shift=shift)
            self.query, self.key = query_and_key(attention, channels, heads, points)
        self.value = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)
        self.linear = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, stacked: Tensor) -> Tensor:
        check_maps("stacked", stacked, self.channels, (4, 5))
        out = (self.proj, self.linear, self.norm)
        if self.attention == "pointwise":
            return per_pixel(stacked, self.value, *out)
        maps = stacked if stacked.ndim == 5 else stacked[:, None]
        fused = self.attend(maps, maps, [self.query], [self.key], [self.value], out)
        return fused.view(stacked.shape)

    def layers(self) -> tuple[nn.Module, ...]:
        """The layers of a ``"pointwise"`` interaction, in order."""
        return self.value, self.proj, self.linear, self.norm


class TaskQueryBlock(nn.Module):
    """A task's map attends to the fused maps of all tasks [6, 7]: z = x + LN(Linear(MHA(q = x, k = F, v = F))).

    Args:
        channels: Channels D of the maps.
        heads: Attention heads (released: 4 in DeMT, 2 in DeMTG and DeGMix).
        attention: ``"pixelwise"``: the query at a pixel attends (softmax) to the T fused tokens of that pixel (released
            DeMT, DeMTG); ``"linear"``: no softmax, Q·(KᵀV)·scale over all T·H·W tokens (released DeGMix);
            ``"global"``: softmax attention over all T·H·W tokens (papers); ``"window"`` and ``"deformable"``: over
            those of a window or of learnt points, see `TaskInteractionBlock`.
        pre_norm: LayerNorm on the inputs of the query, key and value projections, which then have no bias, as in
            DeGMix. By default only with ``"linear"``, which needs it.
        window, shift, points: See `TaskInteractionBlock`.

    Shape:
        x (B, D, H, W) and fused (B, T, D, H, W), or (B, D, H, W) for one task, to (B, D, H, W). Every image of a batch
        attends to its own tokens only.

    Raises:
        ValueError: if `heads` does not divide `channels`, for an unknown `attention`, ``pre_norm=False`` with
            ``"linear"``, numbers that do not fit, or inputs whose shapes or dtypes do not.

    Example:
        >>> import torch
        >>> block = TaskQueryBlock(8, heads=2, attention="linear")
        >>> block(torch.randn(2, 8, 5, 7), torch.randn(2, 3, 8, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 4,
        attention: QueryAttention = "pixelwise",
        pre_norm: bool | None = None,
        window: int = 8,
        shift: int = 0,
        points: int = 4,
    ) -> None:
        super().__init__()
        check_divides("heads", heads, "channels", channels)
        check_choice("attention", attention, get_args(QueryAttention))
        pre_norm = attention == "linear" if pre_norm is None else pre_norm
        if attention == "linear" and not pre_norm:
            raise ValueError("Expected `pre_norm` to be True with attention='linear', got False")
        self.channels, self.heads, self.attention = channels, heads, attention
        self.attend = attention_function(attention, heads, window=window, shift=shift)
        self.norm_query, self.norm_key, self.norm_value = (
            nn.LayerNorm(channels) if pre_norm else nn.Identity() for _ in range(3)
        )
        self.query, self.key = query_and_key(attention, channels, heads, points, bias=not pre_norm)
        self.value = nn.Linear(channels, channels, bias=not pre_norm)
        self.proj = nn.Linear(channels, channels)
        self.linear = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, fused: Tensor) -> Tensor:
        check_maps("x", x, self.channels, (4,))
        check_maps("fused", fused, self.channels, (4, 5))
        fused = fused if fused.ndim == 5 else fused[:, None]
        if (x.shape[0], *x.shape[-2:]) != (fused.shape[0], *fused.shape[-2:]):
            raise ValueError(
                f"Expected `x` and `fused` of the same batch and size, got {tuple(x.shape)} and {tuple(fused.shape)}"
            )
        *layers, norm = self.layers()
        return per_pixel(self.attend(x, fused, *layers), norm, residual=x)

    def layers(self) -> Query:
        """The layers in their order: q, k, v, what comes after attention, and the norm before x is added."""
        q, k, v = (self.norm_query, self.query), (self.norm_key, self.key), (self.norm_value, self.value)
        return Query(q, k, v, (self.proj, self.linear), self.norm)


class GatingAttention(nn.Module):
    """Gated feed-forward block with residual, per pixel: with a, b the halves of GELU(Linear(LN(z))),
    z ← z + Linear(a ⊙ (W·LN(b) + c)), W initially 0 and c initially 1. DeMTG and DeGMix.

    Args:
        channels: Channels D of the map.
        hidden_channels: Width of the hidden layer before it is split in two (2·D by default; even).

    Shape:
        (B, D, H, W) or task-stacked (B, T, D, H, W), to the same shape.

    Raises:
        ValueError: for an odd `hidden_channels` or numbers below 1, or an input whose shape or dtype does not fit.

    Example:
        >>> import torch
        >>> GatingAttention(8)(torch.randn(2, 8, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
    """

    def __init__(self, channels: int, *, hidden_channels: int | None = None) -> None:
        super().__init__()
        hidden_channels = 2 * channels if hidden_channels is None else hidden_channels
        check_positive(channels=channels, hidden_channels=hidden_channels)
        if hidden_channels % 2:
            raise ValueError(f"Expected `hidden_channels` to be even, got {hidden_channels}")
        self.channels = channels
        half = hidden_channels // 2
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, hidden_channels)
        self.gate_norm = nn.LayerNorm(half)
        self.gate = nn.Linear(half, half)
        self.proj = nn.Linear(half, channels)
        nn.init.zeros_(self.gate.weight)
        nn.init.ones_(self.gate.bias)

    def forward(self, z: Tensor) -> Tensor:
        check_maps("z", z, self.channels, (4, 5))
        a, b = per_pixel(z, self.norm, self.expand, F.gelu).chunk(2, dim=-3)
        return per_pixel(a * per_pixel(b, self.gate_norm, self.gate), self.proj, residual=z)


class TaskHead(nn.Module):
    """Conv3×3 (no bias), BN, ReLU, Conv1×1 to the task's channels, bilinear upsampling.

    Args:
        channels: Channels D of the input map.
        out_channels: The task's channels.
        hidden_channels: Width between the convolutions; D by default.

    Shape:
        (B, D, h, w) to (B, out_channels, h, w), or (B, out_channels, H, W) with `size` (H, W).

    Raises:
        ValueError: for numbers of channels below 1, or an input whose shape or dtype does not fit.

    Example:
        >>> import torch
        >>> TaskHead(8, 3)(torch.randn(2, 8, 4, 5), size=(16, 20)).shape
        torch.Size([2, 3, 16, 20])
    """

    def __init__(self, channels: int, out_channels: int, *, hidden_channels: int | None = None) -> None:
        super().__init__()
        hidden_channels = channels if hidden_channels is None else hidden_channels
        check_positive(channels=channels, out_channels=out_channels, hidden_channels=hidden_channels)
        self.channels = channels
        self.conv = nn.Conv2d(channels, hidden_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(hidden_channels)
        self.logits = nn.Conv2d(hidden_channels, out_channels, 1)
        nn.init.normal_(self.logits.weight, std=0.01)
        assert self.logits.bias is not None
        nn.init.zeros_(self.logits.bias)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Logits at `size` (H, W), or at the map's own size."""
        check_maps("x", x, self.channels, (4,))
        logits: Tensor = self.logits(F.relu(self.norm(self.conv(x))))
        return logits if size is None else resize(logits, size)
