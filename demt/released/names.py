"""Names of the released code's parameters, and what they are called here. Pure functions on names and tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import Tensor

#: Pattern of a released name → our name; ``{task}`` stands for the task of that number or name.
_HEAD = {
    r"head\.linear1\.0": "head.neck.proj",
    r"head\.linear1\.1": "head.neck.norm",
    r"head\.patch_embed\.projection": "head.neck.proj",
    r"head\.patch_embed\.norm": "head.neck.norm",
    r"head\.featconv\.head6\.(\d)": r"head.neck.fuse.\1",
    r"head\.defor_mixers\.(\d+)\.blocks\.(\d+)\.0": r"head.mixers.{task}.blocks.\2.channel.conv",
    r"head\.defor_mixers\.(\d+)\.blocks\.(\d+)\.2": r"head.mixers.{task}.blocks.\2.channel.norm",
    r"head\.defor_mixers\.(\d+)\.blocks\.(\d+)\.3\.fn\.0": r"head.mixers.{task}.blocks.\2.spatial.proj",
    r"head\.defor_mixers\.(\d+)\.blocks\.(\d+)\.3\.fn\.0\.get_offset\.p_conv": (
        r"head.mixers.{task}.blocks.\2.spatial.position"
    ),
    r"head\.defor_mixers\.(\d+)\.blocks\.(\d+)\.3\.fn\.0\.get_offset\.opt": (
        r"head.mixers.{task}.blocks.\2.spatial.offset"
    ),
    r"head\.defor_mixers\.(\d+)\.blocks\.(\d+)\.3\.fn\.2": r"head.mixers.{task}.blocks.\2.norm",
    r"head\.task_fusion\.out_proj": "head.interaction.proj",
    r"head\.smlp\.0": "head.interaction.linear",
    r"head\.smlp\.1": "head.interaction.norm",
    r"head\.task_querys\.(\d+)\.norm_q": "head.queries.{task}.norm_query",
    r"head\.task_querys\.(\d+)\.norm_k": "head.queries.{task}.norm_key",
    r"head\.task_querys\.(\d+)\.norm_v": "head.queries.{task}.norm_value",
    r"head\.task_querys\.(\d+)\.to_q": "head.queries.{task}.query",
    r"head\.task_querys\.(\d+)\.to_k": "head.queries.{task}.key",
    r"head\.task_querys\.(\d+)\.to_v": "head.queries.{task}.value",
    r"head\.task_querys\.(\d+)\.(?:out_)?proj": "head.queries.{task}.proj",
    r"head\.smlp2\.(\d+)\.0": "head.queries.{task}.linear",
    r"head\.smlp2\.(\d+)\.1": "head.queries.{task}.norm",
    r"head\.gmlps\.gating\.0\.fn\.ln1_0": "head.gating.norm",
    r"head\.gmlps\.gating\.0\.fn\.fc1_0": "head.gating.expand",
    r"head\.gmlps\.gating\.0\.fn\.sgu_0\.ln": "head.gating.gate_norm",
    r"head\.gmlps\.gating\.0\.fn\.sgu_0\.proj": "head.gating.gate",
    r"head\.gmlps\.gating\.0\.fn\.fc2_0": "head.gating.proj",
    r"head\.bottleneck\.(\w+)\.conv": "head.heads.{task}.conv",
    r"head\.bottleneck\.(\w+)\.bn": "head.heads.{task}.norm",
    r"head\.final_logits\.(\w+)": "head.heads.{task}.logits",
}
_SWIN = {
    r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.(norm[12])": r"backbone.layers.\1.blocks.\2.\3",
    r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.attn\.w_msa\.(qkv|proj)": r"backbone.layers.\1.blocks.\2.attn.\3",
    r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.attn\.w_msa": r"backbone.layers.\1.blocks.\2.attn",
    r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.ffn\.layers\.0\.0": r"backbone.layers.\1.blocks.\2.mlp.fc1",
    r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.ffn\.layers\.1": r"backbone.layers.\1.blocks.\2.mlp.fc2",
    r"backbone\.(norm\d)": r"backbone.\1",
}
_VIT = {
    r"backbone\.layers\.(\d+)\.ln([12])": r"backbone.blocks.\1.norm\2",
    r"backbone\.layers\.(\d+)\.attn\.attn\.out_proj": r"backbone.blocks.\1.attn.proj",
    r"backbone\.layers\.(\d+)\.ffn\.layers\.0\.0": r"backbone.blocks.\1.mlp.fc1",
    r"backbone\.layers\.(\d+)\.ffn\.layers\.1": r"backbone.blocks.\1.mlp.fc2",
}
_BACKBONE = {
    **_SWIN,
    **_VIT,
    r"backbone\.patch_embed\.projection": "backbone.patch_embed.proj",
    r"backbone\.patch_embed\.norm": "backbone.patch_embed.norm",
    # HRNet has timm's names.
    r"backbone\.((?:conv|bn|layer|stage|transition)\d.*)": r"backbone.\1",
}
_LEAF = r"\.(weight|bias|running_mean|running_var|num_batches_tracked|relative_position_bias_table)"
_BUFFERS = (".offset", ".relative_position_index")

Renamed = tuple[dict[str, Tensor], dict[str, int]]


def rename(name: str, tensor: Tensor, tasks: Sequence[str], neck: str | None) -> Renamed:
    """One released entry as ours: ({our name: tensor}, {unused entry: number of parameters}), empty if unknown."""
    if _is_unused(name, neck):
        return {}, {name: 0 if name.endswith(_BUFFERS) else tensor.numel()}
    for pattern, convert in _SPECIAL.items():
        if match := re.fullmatch(pattern, name):
            return convert(match, tensor, tasks)
    if name in ("backbone.cls_token", "backbone.pos_embed"):
        return {name: tensor}, {}
    for pattern, ours in {**_HEAD, **_BACKBONE}.items():
        if match := re.fullmatch(pattern + _LEAF, name):
            return {match.expand(_with_task(ours, match, tasks)) + "." + match.group(match.lastindex or 0): tensor}, {}
    return {}, {}


def _is_unused(name: str, neck: str | None) -> bool:
    # DeGMix has DeMT's neck beside its own; offset buffers and Swin's index buffers take no part in any output.
    return (neck != "linear" and name.startswith("head.linear1.")) or name.endswith(_BUFFERS)


def _with_task(ours: str, match: re.Match[str], tasks: Sequence[str]) -> str:
    if "{task}" not in ours:
        return ours
    which = match.group(1)
    return ours.replace("{task}", tasks[int(which)] if which.isdigit() else which)


def _swin_merging(match: re.Match[str], tensor: Tensor, tasks: Sequence[str]) -> Renamed:
    # Released: channels, then rows, then columns of the 2×2 patch; timm: columns, rows, channels; and timm merges at
    # the start of the next stage.
    rest = tensor.shape[:-1]
    merged = tensor.reshape(*rest, -1, 2, 2).movedim(-3, -1).transpose(-3, -2)
    return {f"backbone.layers.{int(match.group(1)) + 1}.downsample.{match.group(2)}": merged.reshape(tensor.shape)}, {}


def _interaction(match: re.Match[str], tensor: Tensor, tasks: Sequence[str]) -> Renamed:
    # A token that attends to itself alone has no use for queries and keys.
    value = tensor.chunk(3)[2]
    return {f"head.interaction.value.{match.group(1)}": value}, {f"{match.group(0)} (query, key)": 2 * value.numel()}


def _query(match: re.Match[str], tensor: Tensor, tasks: Sequence[str]) -> Renamed:
    parts = dict(zip(("query", "key", "value"), tensor.chunk(3)))
    unused = {}
    if match.group(2) == "bias":
        # Softmax cancels what a key bias adds.
        unused[f"{match.group(0)} (key)"] = parts.pop("key").numel()
    prefix = f"head.queries.{tasks[int(match.group(1))]}"
    return {f"{prefix}.{part}.{match.group(2)}": value for part, value in parts.items()}, unused


def _gate(match: re.Match[str], tensor: Tensor, tasks: Sequence[str]) -> Renamed:
    return {"head.gating.gate.weight": tensor.squeeze(-1)}, {}


def _tap(match: re.Match[str], tensor: Tensor, tasks: Sequence[str]) -> Renamed:
    return {f"head.neck.taps.{int(match.group(1)) - 2}.{match.group(2)}": tensor}, {}


def _vit_attention(match: re.Match[str], tensor: Tensor, tasks: Sequence[str]) -> Renamed:
    return {f"backbone.blocks.{match.group(1)}.attn.qkv.{match.group(2)}": tensor}, {}


_SPECIAL: dict[str, Callable[[re.Match[str], Tensor, Sequence[str]], Renamed]] = {
    r"backbone\.stages\.(\d+)\.downsample\.(norm\.weight|norm\.bias|reduction\.weight)": _swin_merging,
    r"head\.task_fusion\.in_proj_(weight|bias)": _interaction,
    r"head\.task_querys\.(\d+)\.in_proj_(weight|bias)": _query,
    r"head\.gmlps\.gating\.0\.fn\.sgu_0\.proj\.weight": _gate,
    r"head\.featconv\.head([2-5])\.(\d\.\w+)": _tap,
    r"backbone\.layers\.(\d+)\.attn\.attn\.in_proj_(weight|bias)": _vit_attention,
}
