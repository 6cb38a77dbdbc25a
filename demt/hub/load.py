"""Loading weights strictly, except for what a change of tasks or image channels makes new."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from demt.backbones.weights import adapted_first_convolution, filtered_by_timm, fits_other_channels
from demt.tasks import Task


class MultiTask(Protocol):
    """What this module needs of a model."""

    backbone: Any

    @property
    def tasks(self) -> dict[str, Task]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any: ...


_logger = logging.getLogger("demt")
_BACKBONE = "backbone."
_BACKBONES = re.compile(r"backbone\.|head\.encoders\.\w+\.stages\.")
_STEM = "head.details."
_STEM_READS = f"{_STEM}layers.0.weight"
#: Dtypes whose values are weights as they stand; float8 and integers have scales kept elsewhere.
_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: Bytes of tables that a network makes anew instead of loading them; BEiT's for images of 1024 pixels have 1.6 GB.
MAX_TABLES = 2**31
_TASK_ENTRY = re.compile(r"head\.(?:mixers|queries|heads|encoders|refinements)\.(\w+)\.")


def load_weights(
    model: MultiTask,
    state: Mapping[str, Tensor],
    tasks: Mapping[str, Task] | None,
    source: str,
    *,
    trained: MultiTask | None = None,
) -> None:
    """Load `state`, made for `tasks` (None: those it has heads for), into a model that may have others.

    Weights of tasks both have are kept; a task's logits are new where its channels differ. The backbone's first
    convolution is adapted where the image channels differ, and what it keeps per position (position embeddings, bias
    tables) where its image size does. One log line says what was kept, adapted, is new and left out, unless all was
    kept. The model is unchanged if this raises.

    Args:
        trained: The model that the weights are of, for the image size of its backbone; square if None. Its own weights
            are not looked at: it may be on the meta device.

    Raises:
        ValueError: on any other missing, unexpected or differently shaped entry, or a value that is not finite.
    """
    wanted = model.state_dict()
    state = dict(state)
    total = len(state)
    channels = _channels(state) if tasks is None else {name: task.channels for name, task in tasks.items()}
    new_tasks = [name for name in model.tasks if name not in channels]
    new_logits = [n for n, task in model.tasks.items() if n in channels and task.channels != channels[n]]
    gone_tasks = [name for name in channels if name not in model.tasks]
    replaced = tuple(f"head.{part}.{task}.logits." for task in new_logits for part in ("heads", "refinements"))
    state = {n: t for n, t in state.items() if _task_of(n) not in gone_tasks and not n.startswith(replaced)}
    adapted = {**_adapt_first_convolution(model, state, wanted), **_adapt_positions(model, state, wanted, trained)}
    state |= adapted
    # The stem is there for tasks without an encoder: other tasks may be the first or the last of these.
    stem = {name for name in (*state, *wanted) if name.startswith(_STEM)}
    if gone_tasks and not stem & set(wanted):
        state = {name: value for name, value in state.items() if name not in stem}
    may_miss = {name for name in wanted if _task_of(name) in new_tasks or name.startswith(replaced)}
    if new_tasks and not stem & set(state):
        may_miss |= stem
    check_state(state, wanted, source, may_miss)
    model.load_state_dict({**{name: wanted[name] for name in may_miss}, **state})
    told = {
        "adapted": _grouped(adapted),
        "new": [*(f"task {n!r}" for n in new_tasks), *(f"logits of {n!r}" for n in new_logits)],
        "left out": [f"task {n!r}" for n in gone_tasks],
    }
    if any(told.values()):
        kept = f"kept {len(state) - len(adapted)} of {total} weights"
        rest = (f"{what}: {', '.join(names)}" for what, names in told.items() if names)
        _logger.warning("%s: %s", source, "; ".join([kept, *rest]))


def _grouped(names: Iterable[str]) -> list[str]:
    """Names; those that differ in numbers only as one, with `*` for the numbers."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\.\d+(?=\.)", ".*", name), []).append(name)
    return [pattern if len(members) > 1 else members[0] for pattern, members in groups.items()]


def _channels(state: Mapping[str, Tensor]) -> dict[str, int]:
    matches = ((re.fullmatch(r"head\.heads\.(\w+)\.logits\.weight", name), tensor) for name, tensor in state.items())
    return {match.group(1): tensor.shape[0] for match, tensor in matches if match}


def _task_of(name: str) -> str | None:
    match = _TASK_ENTRY.match(name)
    return match.group(1) if match else None


def _adapt_first_convolution(
    model: MultiTask, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Of the backbone, of the copies of its first stages, and of the stem: what reads the image."""
    adapted: dict[str, Tensor] = {}
    for prefix in {match.group() for name in wanted if (match := _BACKBONES.match(name))}:
        old, new = ({n.removeprefix(prefix): t for n, t in s.items() if n.startswith(prefix)} for s in (state, wanted))
        found = adapted_first_convolution(model.backbone, old, new)
        adapted |= {f"{prefix}{name}": tensor for name, tensor in found.items()}
    old_stem, new_stem = state.get(_STEM_READS), wanted.get(_STEM_READS)
    if old_stem is not None and new_stem is not None and fits_other_channels(old_stem, new_stem):
        adapted[_STEM_READS] = adapt_input_conv(new_stem.shape[1], old_stem)
    return adapted


def _of_backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(_BACKBONE): tensor for n, tensor in state.items() if n.startswith(_BACKBONE)}


def _adapt_positions(
    model: MultiTask, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], trained: MultiTask | None
) -> dict[str, Tensor]:
    """The backbone's weights that depend on its image size, as they are for the model's."""
    old, new = _grid(trained), _grid(model)
    positions = state.get("backbone.pos_embed")
    adapted: dict[str, Tensor] = {}
    if old and new and old != new and positions is not None and positions.ndim == 3:
        # Two grids may have one number of tokens, so shapes do not tell.
        adapted["backbone.pos_embed"] = resample_abs_pos_embed(
            positions,
            list(new),
            list(old),
            num_prefix_tokens=positions.shape[1] - old[0] * old[1],
            antialias=model.backbone.antialias_positions,
        )
    unlike = [n for n, t in state.items() if n in wanted and wanted[n].shape != t.shape and n not in adapted]
    if not unlike or (old and old[0] != old[1]):
        return adapted
    return {**adapted, **_adapted_by_timm(model.backbone, state, wanted, unlike)}


def _grid(model: MultiTask | None) -> tuple[int, int] | None:
    grid = getattr(getattr(getattr(model, "backbone", None), "patch_embed", None), "grid_size", None)
    return tuple(grid) if grid else None


def _adapted_by_timm(
    backbone: Any, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], names: Sequence[str]
) -> dict[str, Tensor]:
    """Those of `names` that timm's own loading for the architecture, which takes old sizes for square, makes fit."""
    filtered = filtered_by_timm(backbone, _of_backbone(state)) or {}
    adapted = {name: filtered.get(name.removeprefix(_BACKBONE)) for name in names}
    return {n: tensor for n, tensor in adapted.items() if tensor is not None and tensor.shape == wanted[n].shape}


def check_state(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str, may_miss: Collection[str] = ()
) -> None:
    """Raise `ValueError` unless `state` has the names and shapes of `wanted` (but `may_miss`), and finite values."""
    check_shapes(state, wanted, source, may_miss)
    for name, tensor in state.items():
        dtype = wanted[name].dtype
        if dtype.is_floating_point and tensor.dtype not in _FLOATING:
            raise ValueError(
                f"Weights of {source} do not fit the model: {name!r} has dtype {tensor.dtype}, expected one of "
                f"{[str(known) for known in _FLOATING]}; save it as one of these"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor.to(dtype) if dtype in _FLOATING else tensor).all():
            raise ValueError(f"Weights of {source} are damaged: {name!r} holds NaN or infinite values")


def check_shapes(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str, may_miss: Collection[str] = ()
) -> None:
    """Raise `ValueError` unless `state` has the names and shapes of `wanted`, but for names that it may miss."""
    missing = [name for name in wanted if name not in state and name not in may_miss]
    unexpected = [name for name in state if name not in wanted]
    problems = [
        _listed([f"missing {name!r}" for name in missing]),
        _listed([f"unexpected {name!r}" for name in unexpected]),
        _listed(
            [
                f"{name!r} has shape {tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}"
                for name, tensor in state.items()
                if name in wanted and tensor.shape != wanted[name].shape
            ]
        ),
        _prefixed(missing, unexpected),
    ]
    if any(problems):
        raise ValueError(f"Weights of {source} do not fit the model: {'; '.join(filter(None, problems))}")


def check_tables(model: nn.Module) -> None:
    """Raise `ValueError` if the buffers that are not among a network's weights take more than `MAX_TABLES` bytes.

    Weights bound all else: those of LeViT for images of 4096 pixels have 17 MB, and its tables 84 GB.
    """
    saved = model.state_dict()
    size = sum(table.nbytes for name, table in model.named_buffers() if name not in saved)
    if size > MAX_TABLES:
        raise ValueError(
            f"besides its weights it takes {size / 2**30:.1f} GiB of tables, expected at most {MAX_TABLES / 2**30:.0f}"
            "; use a smaller `img_size`"
        )


def _listed(problems: Sequence[str]) -> str:
    return "; ".join(problems[:3]) + (f" and {len(problems) - 3} more" if len(problems) > 3 else "")


def _prefixed(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """Advice where unexpected names are those that are missing with something before them, e.g. a wrapper's prefix."""
    for name in unexpected:
        if missing and name.endswith(f".{missing[0]}"):
            prefix = name.removesuffix(missing[0])
            return f"names in it begin with {prefix!r}: keep only those that do, without it"
    return ""
