"""The heads' equations, literally: one image at a time, every attention matrix and every concatenated map formed.

Weights come as a state dict of the head; batch norm uses the statistics of the batch (`training`) or the running ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def head(state: dict[str, Tensor], config, levels: list[Tensor], size, *, training: bool = False) -> dict[str, Tensor]:
    w = Weights(state, training)
    x = neck(w.at("neck"), config, levels)
    tasks = list(config.tasks)
    if config.family == "multitask_baseline":
        features = dict.fromkeys(tasks, x)
    else:
        mixed = {t: mixer(w.at(f"mixers.{t}"), x, config.depth) for t in tasks}
        features = decode(w, config, mixed)
    return {t: task_head(w.at(f"heads.{t}"), features[t], size) for t in tasks}


class Weights:
    def __init__(self, state, training, prefix=""):
        self.state, self.training, self.prefix = state, training, prefix

    def at(self, name):
        return Weights(self.state, self.training, f"{self.prefix}{name}.")

    def __getitem__(self, name):
        return self.state.get(self.prefix + name)

    def linear(self, x):
        return F.linear(x, self["weight"], self["bias"])

    def layer_norm(self, x):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self["weight"] + self["bias"]

    def batch_norm(self, x):
        mean, var = self["running_mean"], self["running_var"]
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        scaled = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return scaled * self["weight"][:, None, None] + self["bias"][:, None, None]


def up(x, size):
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def pixels(x):
    """(B, D, H, W) to tokens (B, H·W, D)."""
    return x.flatten(2).transpose(1, 2)


def maps(tokens, like):
    return tokens.transpose(1, 2).reshape(like.shape[0], -1, *like.shape[-2:])


def neck(w, config, levels):
    if config.neck == "taps":
        scale = tuple(4 * s for s in levels[0].shape[-2:])
        taps = [up(conv_twice(w.at(f"taps.{i}"), level), scale) for i, level in enumerate(levels)]
        return conv_twice(w.at("fuse"), torch.cat(taps, 1))
    joined = torch.cat([up(level, levels[0].shape[-2:]) for level in levels], 1)
    if config.neck == "patch":
        joined = F.pad(joined, (0, -joined.shape[-1] % 4, 0, -joined.shape[-2] % 4))
        out = F.conv2d(joined, w["proj.weight"], w["proj.bias"], stride=4)
    else:
        out = maps(w.at("proj").linear(pixels(joined)), joined)
    return maps(w.at("norm").layer_norm(pixels(out)), out)


def conv_twice(w, x):
    for conv, norm in (("0", "1"), ("3", "4")):
        x = F.relu(w.at(norm).batch_norm(F.conv2d(x, w[f"{conv}.weight"], padding=1)))
    return x


def mixer(w, x, depth):
    for d in range(depth):
        block = w.at(f"blocks.{d}")
        x = block.at("channel.norm").batch_norm(
            F.gelu(F.conv2d(x, block["channel.conv.weight"], block["channel.conv.bias"]))
        )
        x = x + block.at("norm").batch_norm(F.gelu(spatial_deformable(block.at("spatial"), x)))
    return x


def spatial_deformable(w, x):
    height, width = x.shape[-2:]
    u = F.conv2d(x, w["position.weight"], w["position.bias"], padding=1)
    g = torch.empty(18, height, width, dtype=x.dtype)
    for k in range(9):
        for i in range(height):
            g[k, i] = (i + 1) + (k // 3 - 1)
        for j in range(width):
            g[9 + k, :, j] = (j + 1) + (k % 3 - 1)
    delta = F.conv2d(u + g, w["offset.weight"], w["offset.bias"], padding=1, groups=2)
    return F.conv2d(deform_sample(x, delta), w["proj.weight"], w["proj.bias"])


def deform_sample(x, delta):
    """y_c(i, j) = Σ over the four pixels around (i + Δ[2g], j + Δ[2g + 1]) of weight × value, zero outside."""
    batch, channels, height, width = x.shape
    delta = delta.view(batch, -1, 2, height, width).repeat_interleave(channels // (delta.shape[1] // 2), dim=1)
    row = delta[:, :, 0] + torch.arange(height, dtype=x.dtype)[:, None]
    column = delta[:, :, 1] + torch.arange(width, dtype=x.dtype)
    top, left = row.detach().floor(), column.detach().floor()
    total = torch.zeros_like(x)
    for r in (top, top + 1):
        for c in (left, left + 1):
            weight = (1 - (row - r).abs()) * (1 - (column - c).abs())
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            index = r.clamp(0, height - 1).long() * width + c.clamp(0, width - 1).long()
            value = x.flatten(2).gather(2, index.flatten(2)).view_as(x)
            total = total + torch.where(inside, weight * value, torch.zeros_like(value))
    return total


def decode(w, config, mixed):
    """Interaction, queries and gating, image by image, on all T·H·W tokens in task-major order."""
    images = next(iter(mixed.values())).shape[0]
    rows = {t: [] for t in mixed}
    for b in range(images):
        x = {t: pixels(m[b : b + 1])[0] for t, m in mixed.items()}
        fused = interaction(w.at("interaction"), config, torch.cat(list(x.values())))
        for t in mixed:
            z = x[t] + query(w.at(f"queries.{t}"), config, x[t], fused)
            rows[t].append(gating(w.at("gating"), z) if config.gating else z)
    return {t: maps(torch.stack(rows[t]), mixed[t]) for t in mixed}


def interaction(w, config, tokens):
    value = w.at("value").linear(tokens)
    if config.interaction == "global":
        query, key = w.at("query").linear(tokens), w.at("key").linear(tokens)
        value = softmax_attention(query, key, value, config.heads)
    return w.at("norm").layer_norm(w.at("linear").linear(w.at("proj").linear(value)))


def query(w, config, x, fused):
    inputs = [x, fused, fused]
    if config.pre_norm:
        inputs = [w.at(f"norm_{n}").layer_norm(v) for n, v in zip(("query", "key", "value"), inputs)]
    q, k, v = (w.at(n).linear(value) for n, value in zip(("query", "key", "value"), inputs))
    if config.query == "linear":
        size = q.shape[-1] // config.heads
        parts = [
            (q[:, h : h + size] @ k[:, h : h + size].T) * size**-0.5 @ v[:, h : h + size]
            for h in range(0, q.shape[-1], size)
        ]
        out = torch.cat(parts, -1)
    elif config.query == "global":
        out = softmax_attention(q, k, v, config.heads)
    else:
        count = len(x)
        out = torch.cat([softmax_attention(q[p : p + 1], k[p::count], v[p::count], config.heads) for p in range(count)])
    return w.at("norm").layer_norm(w.at("linear").linear(w.at("proj").linear(out)))


def softmax_attention(q, k, v, heads):
    size = q.shape[-1] // heads
    parts = []
    for h in range(0, q.shape[-1], size):
        scores = q[:, h : h + size] @ k[:, h : h + size].T / math.sqrt(size)
        parts.append(scores.softmax(-1) @ v[:, h : h + size])
    return torch.cat(parts, -1)


def gating(w, z):
    a, b = F.gelu(w.at("expand").linear(w.at("norm").layer_norm(z))).chunk(2, -1)
    return z + w.at("proj").linear(a * w.at("gate").linear(w.at("gate_norm").layer_norm(b)))


def task_head(w, x, size):
    hidden = F.relu(w.at("norm").batch_norm(F.conv2d(x, w["conv.weight"], padding=1)))
    return up(F.conv2d(hidden, w["logits.weight"], w["logits.bias"]), size)
