"""A model computed as the released code does it, on the parameters of one of ours: what the benchmarks compare with.

Every level upsampled and concatenated, offsets stored, torchvision's deformable convolution, `nn.MultiheadAttention`
with its default arguments, all N x N scores of the linear attention. One image at a time, as the released code.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from demt.layers.blocks import neighbourhood_grid


class ReleasedForm(nn.Module):
    def __init__(self, model):
        super().__init__()
        model = copy.deepcopy(model)
        model.backbone._has_linear = False  # torch's own products
        self.backbone, self.head = model.backbone, ReleasedHead(model.head)

    def forward(self, images):
        return self.head(self.backbone(images), images.shape[-2:])


class ReleasedHead(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.parts, self.config, self.tasks = head, head.config, list(head.tasks)
        width, heads = self.config.width, self.config.heads
        self.interaction = attention(width, heads, head.interaction)
        self.queries = nn.ModuleDict()
        if self.config.query == "pixelwise":
            self.queries.update({t: attention(width, heads, head.queries[t]) for t in self.tasks})

    def forward(self, levels, size):
        x = self.neck(levels)
        height, width = x.shape[-2:]
        mixed = {t: self.mixer(self.parts.mixers[t], x).flatten(2).transpose(1, 2) for t in self.tasks}
        tokens = torch.cat(list(mixed.values()), 1)
        block = self.parts.interaction
        fused = block.norm(plain(block.linear, self.interaction(tokens, tokens, tokens)[0]))
        out = {}
        for t, x in mixed.items():
            z = self.query(t, x, fused)
            if self.config.gating:
                z = gating(self.parts.gating, z)
            maps = z.transpose(1, 2).reshape(1, -1, height, width)
            head = self.parts.heads[t]
            logits = head.logits(F.relu(head.norm(head.conv(maps))))
            out[t] = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return out

    def neck(self, levels):
        neck, size = self.parts.neck, levels[0].shape[-2:]
        levels = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in levels]
        joined = torch.cat(levels, 1)
        if isinstance(neck.proj, nn.Conv2d):
            height, width = joined.shape[-2:]
            x = neck.proj(F.pad(joined, (0, -width % neck.patch_size, 0, -height % neck.patch_size)))
            return neck.norm(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
        tokens = neck.norm(plain(neck.proj, joined.flatten(2).transpose(1, 2)))
        return tokens.transpose(1, 2).reshape(1, -1, *size)

    def mixer(self, mixer, x):
        for block in mixer.blocks:
            x = block.channel.norm(F.gelu(block.channel.conv(x)))
            spatial = block.spatial
            hidden = spatial.position(x) + neighbourhood_grid(*x.shape[-2:], x.dtype, x.device)
            moved = deform_conv2d(x, spatial.offset(hidden), spatial.proj.weight, spatial.proj.bias)
            x = x + block.norm(F.gelu(moved))
        return x

    def query(self, task: str, x: Tensor, fused: Tensor) -> Tensor:
        block = self.parts.queries[task]
        if self.config.query == "pixelwise":
            keys = fused.view(len(self.tasks), -1, fused.shape[-1])
            attended = self.queries[task](x, keys, keys)[0]
        else:
            heads = self.config.heads
            q, k, v = (
                plain(layer, norm(each)).unflatten(-1, (heads, -1)).transpose(1, 2)
                for layer, norm, each in (
                    (block.query, block.norm_query, x),
                    (block.key, block.norm_key, fused),
                    (block.value, block.norm_value, fused),
                )
            )
            scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
            attended = plain(block.proj, (scores @ v).transpose(1, 2).flatten(2))
        return x + block.norm(plain(block.linear, attended))


def plain(layer, x):
    return F.linear(x, layer.weight, layer.bias)


def gating(block, z):
    a, b = F.gelu(plain(block.expand, block.norm(z))).chunk(2, -1)
    return z + plain(block.proj, a * plain(block.gate, block.gate_norm(b)))


def attention(width, heads, block):
    """`nn.MultiheadAttention` with a block's weights; what the released modes do not use of it is random."""
    module = nn.MultiheadAttention(width, heads)
    with torch.no_grad():
        for i, name in enumerate(("query", "key", "value")):
            layer = getattr(block, name, None)
            if layer is not None:
                module.in_proj_weight[i * width : (i + 1) * width] = layer.weight
                if layer.bias is not None:
                    module.in_proj_bias[i * width : (i + 1) * width] = layer.bias
        module.out_proj.load_state_dict(block.proj.state_dict())
    return module
