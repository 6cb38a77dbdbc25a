"""Which parameters of a model learn: all, some parts', all but the backbone's, or low-rank updates of the backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from demt.models import MultiTaskModel
from demt.train.optim import check_parts, is_in
from demt.train.recipe import ModelPart

_ADAPTER = "default"


def choose_parameters(model: MultiTaskModel, part: ModelPart) -> None:
    """Freeze what the recipe freezes, and add low-rank updates where it asks for them, in place.

    Raises:
        ImportError: if peft is missing for ``"lora"``.
        ValueError: for ``"lora"`` on a backbone without linear layers, or parts in `only` that the model lacks.
    """
    if part.only:
        check_parts("model.only", part.only, model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(is_in(name, each) for each in part.only))
    if part.backbone == "train":
        return
    model.backbone.requires_grad_(False)
    if part.backbone == "lora":
        _add_lora(model, part)


def _add_lora(model: MultiTaskModel, part: ModelPart) -> None:
    """Updates W + (alpha / r)·B·A of all linear layers of the backbone (Hu et al., LoRA, ICLR 2022); B starts at 0."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("`model.backbone: lora` needs peft: pip install 'demt[lora]'") from error
    linear = [name for name, module in model.backbone.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"`model.backbone` cannot be 'lora': {model.config.backbone} has no linear layers")
    config = LoraConfig(r=part.lora_rank, lora_alpha=part.lora_alpha, target_modules=linear)
    inject_adapter_in_model(config, model.backbone, adapter_name=_ADAPTER)


def merged_state(state: Mapping[str, Tensor], part: ModelPart) -> dict[str, Tensor]:
    """Weights with low-rank updates added to the layers that they update, under the names of the plain model."""
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            layer = name.removesuffix(".base_layer.weight")
            down, up = (state[f"{layer}.lora_{side}.{_ADAPTER}.weight"] for side in "AB")
            value = value + part.lora_alpha / part.lora_rank * (up @ down)
        plain[name.replace(".base_layer.", ".")] = value
    return plain


def training_mode(model: MultiTaskModel, part: ModelPart) -> None:
    """Training mode, but for what is frozen: a frozen backbone, and batch normalisation that keeps its statistics."""
    model.train(not part.only)
    for name, module in model.named_modules():
        if any(is_in(name, each) for each in part.only):
            module.train()
    if part.backbone == "freeze":
        model.backbone.eval()
    if part.freeze_norm:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def parameter_table(model: MultiTaskModel, optimizer: torch.optim.Optimizer) -> Table:
    """What learns: by part of the model, its parameters, those trained, and their learning rates."""
    rates = {
        id(p): group["lr"] * group.get("lr_scale", 1.0) for group in optimizer.param_groups for p in group["params"]
    }
    rows: dict[str, list[Any]] = {}
    for name, parameter in model.named_parameters():
        row = rows.setdefault(_part_of(name), [0, 0, []])
        row[0] += parameter.numel()
        if id(parameter) in rates and parameter.requires_grad:
            row[1] += parameter.numel()
            row[2].append(rates[id(parameter)])
    table = Table(title="Parameters", caption="Learning rates are those after warm-up.")
    table.add_column("part")
    for column in ("all", "trained", "learning rate"):
        table.add_column(column, justify="right")
    for part, (count, trained, found) in rows.items():
        table.add_row(part, f"{count:,}", f"{trained:,}", _range(found))
    table.add_section()
    table.add_row("total", *(f"{sum(row[i] for row in rows.values()):,}" for i in (0, 1)), "")
    return table


def _part_of(name: str) -> str:
    """The backbone, its low-rank updates, or the part of the head: `neck`, `mixers`, `interaction`…"""
    if name.startswith("backbone."):
        return "backbone, LoRA" if ".lora_" in name else "backbone"
    return name.split(".")[1]


def _range(rates: list[float]) -> str:
    if not rates:
        return "frozen"
    low, high = min(rates), max(rates)
    return f"{high:.2g}" if low == high else f"{low:.2g} to {high:.2g}"
