"""The inverse of the conversion, written on its own: a demt state dict under the released code's names."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RULES = [
    (r"^backbone\.patch_embed\.proj\.", "backbone.patch_embed.projection."),
    (r"^backbone\.layers\.(\d+)\.blocks\.(\d+)\.attn\.", r"backbone.stages.\1.blocks.\2.attn.w_msa."),
    (r"^backbone\.layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc1\.", r"backbone.stages.\1.blocks.\2.ffn.layers.0.0."),
    (r"^backbone\.layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc2\.", r"backbone.stages.\1.blocks.\2.ffn.layers.1."),
    (r"^backbone\.layers\.(\d+)\.blocks\.", r"backbone.stages.\1.blocks."),
    (r"^backbone\.blocks\.(\d+)\.norm", r"backbone.layers.\1.ln"),
    (r"^backbone\.blocks\.(\d+)\.attn\.qkv\.", r"backbone.layers.\1.attn.attn.in_proj_"),
    (r"^backbone\.blocks\.(\d+)\.attn\.proj\.", r"backbone.layers.\1.attn.attn.out_proj."),
    (r"^backbone\.blocks\.(\d+)\.mlp\.fc1\.", r"backbone.layers.\1.ffn.layers.0.0."),
    (r"^backbone\.blocks\.(\d+)\.mlp\.fc2\.", r"backbone.layers.\1.ffn.layers.1."),
    (r"^head\.neck\.fuse\.", "head.featconv.head6."),
    (r"^head\.mixers\.(\w+)\.blocks\.(\d)\.channel\.conv\.", r"head.defor_mixers.<\1>.blocks.\2.0."),
    (r"^head\.mixers\.(\w+)\.blocks\.(\d)\.channel\.norm\.", r"head.defor_mixers.<\1>.blocks.\2.2."),
    (r"^head\.mixers\.(\w+)\.blocks\.(\d)\.spatial\.proj\.", r"head.defor_mixers.<\1>.blocks.\2.3.fn.0."),
    (
        r"^head\.mixers\.(\w+)\.blocks\.(\d)\.spatial\.position\.",
        r"head.defor_mixers.<\1>.blocks.\2.3.fn.0.get_offset.p_conv.",
    ),
    (
        r"^head\.mixers\.(\w+)\.blocks\.(\d)\.spatial\.offset\.",
        r"head.defor_mixers.<\1>.blocks.\2.3.fn.0.get_offset.opt.",
    ),
    (r"^head\.mixers\.(\w+)\.blocks\.(\d)\.norm\.", r"head.defor_mixers.<\1>.blocks.\2.3.fn.2."),
    (r"^head\.interaction\.proj\.", "head.task_fusion.out_proj."),
    (r"^head\.interaction\.linear\.", "head.smlp.0."),
    (r"^head\.interaction\.norm\.", "head.smlp.1."),
    (r"^head\.queries\.(\w+)\.linear\.", r"head.smlp2.<\1>.0."),
    (r"^head\.queries\.(\w+)\.norm\.", r"head.smlp2.<\1>.1."),
    (r"^head\.gating\.norm\.", "head.gmlps.gating.0.fn.ln1_0."),
    (r"^head\.gating\.expand\.", "head.gmlps.gating.0.fn.fc1_0."),
    (r"^head\.gating\.gate_norm\.", "head.gmlps.gating.0.fn.sgu_0.ln."),
    (r"^head\.gating\.gate\.", "head.gmlps.gating.0.fn.sgu_0.proj."),
    (r"^head\.gating\.proj\.", "head.gmlps.gating.0.fn.fc2_0."),
    (r"^head\.heads\.(\w+)\.conv\.", r"head.bottleneck.\1.conv."),
    (r"^head\.heads\.(\w+)\.norm\.", r"head.bottleneck.\1.bn."),
    (r"^head\.heads\.(\w+)\.logits\.", r"head.final_logits.\1."),
]


def released_form(state: dict[str, Tensor], *, family: str, tasks: list[str]) -> dict[str, Tensor]:
    """`state` of a published variant with the released attention modes; unused released entries are added as zeros."""
    released: dict[str, Tensor] = {}
    for name, tensor in state.items():
        released.update(_entry(name, tensor, state, family, tasks))
    if family == "degmix":
        released["head.linear1.0.weight"] = torch.zeros(state["head.interaction.value.weight"].shape[0], 1440)
    return released


def _entry(name: str, tensor: Tensor, state: dict[str, Tensor], family: str, tasks: list[str]) -> dict[str, Tensor]:
    if match := re.match(r"backbone\.layers\.(\d+)\.downsample\.(.*)", name):
        # Columns of a merged 2×2 patch, ours: (column, row, channel); released: (channel, row, column).
        width = tensor.shape[-1] // 4
        order = torch.tensor([(dx * 2 + dy) * width + c for c in range(width) for dy in range(2) for dx in range(2)])
        return {f"backbone.stages.{int(match[1]) - 1}.downsample.{match[2]}": tensor[..., order]}
    if match := re.match(r"head\.neck\.taps\.(\d)\.(.*)", name):
        return {f"head.featconv.head{int(match[1]) + 2}.{match[2]}": tensor}
    if match := re.match(r"head\.neck\.(proj|norm)\.(.*)", name):
        part = {"proj": "0", "norm": "1"}[match[1]]
        if family == "degmix":
            return {f"head.patch_embed.{'projection' if match[1] == 'proj' else 'norm'}.{match[2]}": tensor}
        return {f"head.linear1.{part}.{match[2]}": tensor}
    if match := re.match(r"head\.interaction\.value\.(.*)", name):
        return {f"head.task_fusion.in_proj_{match[1]}": torch.cat([torch.zeros_like(tensor)] * 2 + [tensor])}
    if match := re.match(r"head\.queries\.(\w+)\.(query|key|value|proj|norm_query|norm_key|norm_value)\.(.*)", name):
        return _query_entry(match, tensor, state, family, tasks)
    for pattern, replacement in RULES:
        if re.match(pattern, name):
            name = re.sub(pattern, replacement, name)
            break
    name = re.sub(r"<(\w+)>", lambda m: str(tasks.index(m[1])), name)
    return {name: tensor[..., None] if name.endswith("sgu_0.proj.weight") else tensor}


def _query_entry(
    match: re.Match[str], tensor: Tensor, state: dict[str, Tensor], family: str, tasks: list[str]
) -> dict[str, Tensor]:
    task, part, leaf = match.groups()
    prefix = f"head.task_querys.{tasks.index(task)}"
    if family == "degmix":
        new = {"query": "to_q", "key": "to_k", "value": "to_v", "proj": "proj"}.get(part) or f"norm_{part[5]}"
        return {f"{prefix}.{new}.{leaf}": tensor}
    if part == "proj":
        return {f"{prefix}.out_proj.{leaf}": tensor}
    if part != "query":
        return {}
    parts = [state.get(f"head.queries.{task}.{p}.{leaf}", torch.zeros_like(tensor)) for p in ("query", "key", "value")]
    return {f"{prefix}.in_proj_{leaf}": torch.cat(parts)}


def lightning_classes(monkeypatch: Any) -> tuple[type, type]:
    """Classes under Lightning's names, in modules that are there while a file is written."""
    callbacks = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    callbacks.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": callbacks.__name__})
    parsing = types.ModuleType("pytorch_lightning.utilities.parsing")
    parsing.AttributeDict = type("AttributeDict", (dict,), {"__module__": parsing.__name__})
    for module in (callbacks, parsing):
        parent = ""
        for part in module.__name__.split("."):
            parent = f"{parent}.{part}".lstrip(".")
            monkeypatch.setitem(sys.modules, parent, sys.modules.get(parent) or types.ModuleType(parent))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return callbacks.ModelCheckpoint, parsing.AttributeDict


def save_as_lightning(state: dict[str, Tensor], file: Path, monkeypatch: Any, **more: Any) -> None:
    """Write a checkpoint as Lightning 1.1 does, whose classes are gone again when this returns."""
    with monkeypatch.context() as patch:
        checkpoint_class, attribute_dict = lightning_classes(patch)
        content = {
            "epoch": 9,
            "pytorch-lightning_version": "1.1.8",
            "callbacks": {checkpoint_class: {"best_model_score": 0.5, "dirpath": file.parent}},
            "hyper_parameters": attribute_dict(lr=1e-3),
            "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 1e-3}]}],
            "state_dict": state,
        }
        torch.save({**content, **more}, file)
