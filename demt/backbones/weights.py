"""Weights of a backbone from a file: read without running anything, named as in timm, loaded as far as they fit."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from demt.files.weights import read_weights

#: Entries of a training checkpoint that hold the weights; an average of them, or the teacher's, comes first.
_ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student", "module", "backbone", "encoder")
#: What wrappers and training code put in front of a backbone's names, in any order.
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "teacher.", "student.")
_DEEPEST, _SHOWN = 5, 3
_logger = logging.getLogger("demt")


def check_source(source: Any) -> None:
    """Refuse what is neither a yes or no nor an existing file, before anything is built or looked up.

    Raises:
        ValueError: for another type.
        FileNotFoundError: if there is no such file.
    """
    if isinstance(source, bool):
        return
    if not isinstance(source, (str, PathLike)) or isinstance(source, bytes):
        raise ValueError(
            f"Expected `pretrained_backbone` to be True, False or the path of a file with weights, got {source!r}"
        )
    path = Path(source).expanduser()
    if not path.is_file():
        what = "a folder, expected a file" if path.is_dir() else "no file"
        raise FileNotFoundError(
            f"`pretrained_backbone` {str(source)!r} is {what}; give the path of a .safetensors or .pth file, or True "
            "for timm's weights"
        )


def load_backbone(backbone: nn.Module, source: str | PathLike[str]) -> None:
    """Load a file's weights into a backbone as far as they fit, and log one line on what did not.

    Names may be timm's, those of the code that timm converts for the architecture (DINOv2, DINOv3, Swin and ConvNeXt as
    their authors wrote them), or EfficientNet-PyTorch's. Prefixes of wrappers (``module.``, ``backbone.``, ``teacher.``
    …) and entries around the weights (``state_dict``, ``model``, ``teacher`` …) are looked through. The first
    convolution is adapted to other image channels, position embeddings to another image size, as timm does.

    Args:
        backbone: What `create_backbone` builds; unchanged if this raises.
        source: A safetensors file, or a file of `torch.save`, of which nothing but tensors and plain values is read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, holds no weights or values that are not finite, or fits less than half of the
            backbone.
    """
    check_source(source)
    given = read_weights(Path(source).expanduser(), entries=_ENTRIES)
    wanted = backbone.state_dict()
    tried = ((prefix, *_fit(backbone, state, wanted)) for prefix, state in _candidates(given))
    prefix, state, fitting = max(tried, key=lambda found: len(found[2]))
    # Counters of batch normalisation are no weights: old files lack them.
    names = [name for name in wanted if not name.endswith("num_batches_tracked")]
    missing = [name for name in names if name not in state]
    mismatched = [name for name in names if name in state and name not in fitting]
    unused = [name for name in given if not name.startswith(prefix)] + [name for name in state if name not in wanted]
    loaded = len(names) - len(mismatched) - len(missing)
    told = [f"{loaded} of the backbone's {len(names)} weights loaded"]
    told += [f"not in the file: {_listed(missing)}"] if missing else []
    told += [f"of another shape: {_shapes(mismatched, state, wanted)}"] if mismatched else []
    told += [f"not used: {_listed(name.rpartition('.')[0] or name for name in unused)}"] if unused else []
    if 2 * loaded < len(names):
        kind = getattr(backbone, "pretrained_cfg", {}).get("architecture", type(backbone).__name__)
        raise ValueError(
            f"{str(source)!r} does not fit the backbone {kind!r}, whose names are like {_listed(names)}: it has "
            f"{loaded} of {len(names)} weights, and names like {_listed(given)}; choose the `backbone` it is of"
        )
    for name, tensor in fitting.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{str(source)!r} is damaged: {name!r} holds NaN or infinite values")
    backbone.load_state_dict({**wanted, **fitting})
    _logger.warning("%s: %s", source, "; ".join(told))


def adapted_first_convolution(
    backbone: Any, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The backbone's first convolution for the image channels of `wanted`, where `state` has it for RGB."""
    first = (getattr(backbone, "pretrained_cfg", None) or {}).get("first_conv")
    adapted = {}
    for name in [f"{f}.weight" for f in ([first] if isinstance(first, str) else first or [])]:
        old, new = state.get(name), wanted.get(name)
        if old is not None and new is not None and fits_other_channels(old, new):
            adapted[name] = adapt_input_conv(new.shape[1], old)
    return adapted


def fits_other_channels(old: Tensor, new: Tensor) -> bool:
    """Whether two convolutions differ in nothing but that the first is for RGB and the second for other images."""
    alike = old.ndim == new.ndim == 4 and old.shape[0] == new.shape[0] and old.shape[2:] == new.shape[2:]
    return alike and old.shape[1] == 3 != new.shape[1]


def filtered_by_timm(backbone: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Weights as timm's own loading for the architecture makes them of `state`, which it takes for square in size.

    None where timm has nothing for the architecture, or does not understand the names.
    """
    modules = (sys.modules.get(base.__module__) for base in backbone.timm_class.__mro__)
    filters = (vars(module).get("checkpoint_filter_fn") for module in modules if module)
    adapt = next((function for function in filters if function), None)
    if adapt is None:
        return None
    try:
        # timm prints what it tries on DINOv3's own names.
        with contextlib.redirect_stdout(io.StringIO()):
            return dict(adapt(dict(state), backbone))
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        _logger.debug("timm adapts no weights of %s: %s", backbone.timm_class.__name__, error)
        return None


def _candidates(state: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each prefix that there is, and the weights under it without it: no prefix first, a student's last."""
    prefixes = {""}
    for name in state:
        prefix = ""
        for _ in range(_DEEPEST):
            step = next((p for p in _PREFIXES if name.startswith(p, len(prefix))), None)
            if step is None:
                break
            prefix += step
            prefixes.add(prefix)
    for prefix in sorted(prefixes, key=lambda prefix: ("student." in prefix, len(prefix), prefix)):
        yield prefix, {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def _fit(
    backbone: Any, state: dict[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights under timm's names, and those among them that the backbone can take."""
    state = _from_efficientnet_pytorch(state, wanted)
    state = filtered_by_timm(backbone, state) or state
    state = backbone.own_form(state)
    state |= adapted_first_convolution(backbone, state, wanted)
    fitting = {name: tensor for name, tensor in state.items() if name in wanted and _can_be(tensor, wanted[name])}
    return state, fitting


def _can_be(tensor: Tensor, wanted: Tensor) -> bool:
    plain = tensor.layout == torch.strided and not tensor.is_quantized
    return plain and tensor.shape == wanted.shape and tensor.is_floating_point() == wanted.is_floating_point()


def _from_efficientnet_pytorch(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's names for those of EfficientNet-PyTorch and its Lite models: ``_conv_stem``, ``_blocks.3._bn1`` …"""
    if "_conv_stem.weight" not in state:
        return state
    # One list of blocks there, a list for each stage in timm.
    blocks = sorted({tuple(map(int, m.groups())) for n in wanted if (m := re.match(r"blocks\.(\d+)\.(\d+)\.", n))})
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    expanding = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    expanding |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    squeeze = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
    renamed = {}
    for name, tensor in state.items():
        if match := re.fullmatch(r"_blocks\.(\d{1,4})\.(_\w+)\.(\w+)", name):
            number, part, leaf = match.groups()
            if int(number) < len(blocks):
                stage, block = blocks[int(number)]
                parts = squeeze | (expanding if f"_blocks.{number}._expand_conv.weight" in state else first)
                name = f"blocks.{stage}.{block}.{parts.get(part, part)}.{leaf}"
        elif match := re.fullmatch(r"(_\w+)\.(\w+)", name):
            name = f"{outside.get(match[1], match[1])}.{match[2]}"
        renamed[name] = tensor
    return renamed


def _listed(names: Iterable[str]) -> str:
    """Names in one line, those that differ in numbers only as one, with `*` for the numbers; the first few."""
    groups = list(dict.fromkeys(re.sub(r"\d+", "*", name) for name in names))
    more = f" and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else ""
    return ", ".join(groups[:_SHOWN]) + more


def _shapes(names: list[str], state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    shown = [f"{n} {tuple(state[n].shape)} instead of {tuple(wanted[n].shape)}" for n in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
