"""Checkpoints of the released DeMT, DeMTG and DeGMix code: what they hold, and their names in demt's."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from demt.config import ModelConfig
from demt.models.variants import FAMILIES, variant
from demt.released import names
from demt.tasks import BUILTIN, DATASETS, RELEASED, Task, resolve_tasks

_LOOKED_FOR = (
    "looked for `head.final_logits.<task>.weight`, `head.bottleneck.*`, `head.defor_mixers.*`, `head.task_querys.*` "
    "and a backbone with `backbone.stages.*` (Swin), `backbone.stage4.*` (HRNet) or `backbone.layers.*` and "
    "`backbone.pos_embed` (ViT)"
)


@dataclasses.dataclass(frozen=True)
class Converted:
    """A released checkpoint under demt's names.

    Args:
        config: The model it is for.
        state: Weights under demt's names.
        unused: Entries of the checkpoint that no output depends on, with their numbers of parameters (0: buffers).
    """

    config: ModelConfig
    state: dict[str, Tensor]
    unused: dict[str, int]


def convert(checkpoint: Mapping[str, Any]) -> Converted:
    """Find out what a released checkpoint holds, from its names and shapes alone, and rename its entries.

    Args:
        checkpoint: A state dict, or a mapping with one under ``"state_dict"``. Only entries that start with
            `backbone.` or `head.` are read; a state dict of a head alone may lack the `head.`.

    Raises:
        ValueError: if it is no such checkpoint, or entries are left over; says what was looked for or is left.
    """
    state = _model_entries(checkpoint)
    config = _describe(state)
    renamed, unused, unknown = {}, {}, []
    for name, tensor in state.items():
        try:
            new, dropped = names.rename(name, tensor, list(config.tasks), config.neck)
        except (IndexError, RuntimeError) as error:
            raise ValueError(f"The entry {name!r} of the checkpoint, {tuple(tensor.shape)}, fits no model") from error
        if not new and not dropped:
            unknown.append(name)
        renamed.update(new)
        unused.update(dropped)
    if unknown:
        raise ValueError(f"{len(unknown)} entries of the checkpoint belong to no released model, e.g. {unknown[:5]}")
    return Converted(config, renamed, unused)


def _model_entries(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"Expected a checkpoint or state dict, got {type(checkpoint).__name__}; {_LOOKED_FOR}")
    inner = checkpoint.get("state_dict", checkpoint)
    if not isinstance(inner, Mapping) or not all(isinstance(name, str) for name in inner):
        raise ValueError(f"Expected `state_dict` to map names to tensors, got {type(inner).__name__}; {_LOOKED_FOR}")
    if any(name.startswith("final_logits.") for name in inner):
        inner = {f"head.{name}": value for name, value in inner.items()}
    state = {n: torch.as_tensor(v) for n, v in inner.items() if n.startswith(("backbone.", "head."))}
    if any(re.fullmatch(r"head\.heads\.\w+\.logits\.weight", name) for name in state):
        raise ValueError(
            "These are weights of a model of demt, and a file of weights does not say how to build it: pass it as "
            "checkpoint_path= to demt.create_model, with the name and tasks of the model; its save_pretrained then "
            "writes a folder that every command takes"
        )
    if not any(re.fullmatch(r"head\.final_logits\.\w+\.weight", name) for name in state):
        found = sorted({name.split(".")[0] for name in inner})
        raise ValueError(
            f"This is not a checkpoint of the released DeMT code: {_LOOKED_FOR}; found entries under {found[:10]}"
        )
    return state


def _describe(state: Mapping[str, Tensor]) -> ModelConfig:
    try:
        family, tasks = _family(state), _tasks(state)
        if any(name.startswith("backbone.") for name in state):
            backbone, backbone_kwargs = _backbone(state)
            config = variant(family, backbone, tasks)
            config = config.replace(
                backbone_kwargs={**config.backbone_kwargs, **backbone_kwargs},
                in_chans=state[_first_convolution(state)].shape[1],
            )
        else:
            config = ModelConfig(family=family, backbone="", tasks=tasks, **FAMILIES[family])  # type: ignore[arg-type]
        return config.replace(
            neck=_neck(state),
            depth=1 + max(_numbers(state, r"head\.defor_mixers\.0\.blocks\.(\d+)\.")),
            width=state["head.smlp.0.weight"].shape[0],
            head_width=state[f"head.bottleneck.{next(iter(config.tasks))}.conv.weight"].shape[0],
        )
    except KeyError as error:
        raise ValueError(f"The checkpoint has no entry {error}; {_LOOKED_FOR}") from error
    except IndexError as error:
        raise ValueError(f"An entry of the checkpoint has too few dimensions; {_LOOKED_FOR}") from error


def _family(state: Mapping[str, Tensor]) -> str:
    if "head.task_querys.0.to_q.weight" in state:
        return "degmix"
    state["head.task_querys.0.in_proj_weight"]
    return "demtg" if any(name.startswith("head.gmlps.") for name in state) else "demt"


def _neck(state: Mapping[str, Tensor]) -> str:
    if "head.patch_embed.projection.weight" in state:
        return "patch"
    return "taps" if "head.featconv.head2.0.weight" in state else "linear"


def _tasks(state: Mapping[str, Tensor]) -> dict[str, Task]:
    matches = (re.fullmatch(r"head\.final_logits\.(\w+)\.weight", name) for name in state)
    channels = {m.group(1): state[m.group(0)].shape[0] for m in matches if m}
    known: dict[str, Task] = {}
    for tasks in (DATASETS[dataset] for dataset in RELEASED):
        if set(tasks) == set(channels) and list(channels) == sorted(channels):
            # Tasks are numbered in checkpoints, in the order of their names there. A file that was sorted lost it;
            # the released configurations have one order per set of tasks.
            channels = {name: channels[name] for name in tasks}
        if tasks["semseg"].channels == channels.get("semseg"):
            # The number of classes tells the data set, and with it units and weights of the other tasks.
            known = {name: task for name, task in tasks.items() if task.channels == channels.get(name)}
    return resolve_tasks({n: known.get(n) or _task(n, count) for n, count in channels.items()})


def _task(name: str, channels: int) -> int | Task:
    return channels if name in BUILTIN else Task(name=name, channels=channels)


def _backbone(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """Short name of the backbone, and the arguments in which it differs from the published one."""
    if "backbone.stages.0.blocks.0.norm1.weight" in state:
        table = state["backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table"]
        sizes = {(96, 6): "swin_tiny", (96, 18): "swin_small", (128, 18): "swin_base", (192, 18): "swin_large"}
        width = state["backbone.patch_embed.projection.weight"].shape[0]
        depth = 1 + max(_numbers(state, r"backbone\.stages\.2\.blocks\.(\d+)\."))
        window = (round(table.shape[0] ** 0.5) + 1) // 2
        return _known(sizes, (width, depth), "Swin width and depth"), {"window_size": window} if window != 7 else {}
    if "backbone.stage4.0.branches.0.0.conv1.weight" in state:
        width = state["backbone.stage4.0.branches.0.0.conv1.weight"].shape[0]
        return _known({18: "hrnet_w18", 48: "hrnet_w48"}, width, "HRNet width"), {}
    positions = state["backbone.pos_embed"]
    size = 16 * round((positions.shape[1] - 1) ** 0.5)
    kwargs = {"img_size": size} if size != 512 else {}
    return _known({768: "vit_base", 1024: "vit_large"}, positions.shape[2], "ViT width"), kwargs


def _known(table: Mapping[Any, str], key: Any, what: str) -> str:
    if key not in table:
        raise ValueError(f"Unknown {what} {key} in the checkpoint; known are {list(table)}")
    return table[key]


def _first_convolution(state: Mapping[str, Tensor]) -> str:
    name = "backbone.patch_embed.projection.weight"
    return name if name in state else "backbone.conv1.weight"


def _numbers(state: Mapping[str, Tensor], pattern: str) -> list[int]:
    found = [int(m.group(1)) for name in state if (m := re.match(pattern, name))]
    if not found:
        raise KeyError(pattern.replace("\\", ""))
    return found
