"""The table of published variants: families × backbones, and one nano model per family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demt.config import ModelConfig, PretrainedCfg
from demt.protocols import CITYSCAPES_SIZES, PROTOCOLS
from demt.registry import register_config
from demt.tasks import DATASETS

#: What the released models of each family are made of. Plain ViTs have a neck of their own.
FAMILIES: dict[str, dict[str, Any]] = {
    "demt": {"depth": 1, "heads": 4},
    "demtg": {"depth": 2, "heads": 2, "gating": True},
    "degmix": {"depth": 2, "heads": 2, "gating": True, "query": "linear", "pre_norm": True},
    "multitask_baseline": {},
}

#: Published backbones by their short names: timm name and arguments.
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "swin_tiny": ("swin_tiny_patch4_window7_224.ms_in22k_ft_in1k", {}),
    "swin_small": ("swin_small_patch4_window7_224.ms_in22k_ft_in1k", {}),
    "swin_base": ("swin_base_patch4_window7_224.ms_in22k_ft_in1k", {}),
    "swin_large": ("swin_large_patch4_window7_224.ms_in22k_ft_in1k", {}),
    "hrnet_w18": ("hrnet_w18_small_v2.ms_in1k", {}),
    "hrnet_w48": ("hrnet_w48.ms_in1k", {}),
    "vit_base": ("vit_base_patch16_224.augreg_in21k_ft_in1k", {"released": True}),
    "vit_large": ("vit_large_patch16_224.augreg_in21k_ft_in1k", {"released": True}),
}
NANO_BACKBONE = "mobilenetv4_conv_small.e2400_r224_in1k"
NANO: dict[str, Any] = {"width": 64, "head_width": 32}

#: Published models that differ from a variant in more than its tags: name, family, backbone, changes.
SPECIAL: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("demt_swin_tiny_depth2", "demt", "swin_tiny", {"depth": 2}),
)
#: Published models trained with the backbone frozen: further tags. What exactly is in them, only their files tell.
TUNING = {"swin_tiny": ("nyud", "pascal"), "swin_large": ("pascal",)}

#: Models on the Hugging Face Hub: by name their repository, commit and sha256 of model.safetensors, as
#: `demt publish --push` prints them.
HUB: dict[str, tuple[str, str, str]] = {}

#: Weights that are part of this package: docs/weights.md says how they were made.
PACKAGED = {
    name: Path(__file__).parent / f"packaged/{name}.safetensors"
    for name in ("demt_nano.rooms", "multitask_baseline_nano.rooms")
}

#: Training sizes of the data sets.
SIZES = {
    "nyud": (3, *PROTOCOLS["atrc"].nyud.size),
    "pascal": (3, *PROTOCOLS["atrc"].pascal.size),
    "cityscapes": (3, *CITYSCAPES_SIZES["mtmamba"]),
}


def variant(family: str, backbone: str, tasks: Any) -> ModelConfig:
    """Configuration of a published family on a published backbone (short name)."""
    name, arguments = BACKBONES[backbone]
    options = dict(FAMILIES[family])
    if backbone.startswith("vit"):
        # Released DeGMix on ViT-B has heads as wide as on Swin-T (1440 / 8).
        options["head_width"] = 180
    return ModelConfig(family=family, backbone=name, backbone_kwargs=arguments, tasks=tasks, **options)  # type: ignore[arg-type]


def _register() -> None:
    for family, options in FAMILIES.items():
        for backbone in BACKBONES:
            tuning = TUNING.get(backbone, ()) if family in ("demtg", "degmix") else ()
            sizes = {**SIZES, **{f"{tag}_tuning": SIZES[tag] for tag in tuning}}
            _register_tags(f"{family}_{backbone}", variant(family, backbone, "nyud"), sizes)
        config = ModelConfig(family=family, backbone=NANO_BACKBONE, tasks="nyud", **{**options, **NANO})  # type: ignore[arg-type]
        _register_tags(f"{family}_nano", config, {**dict.fromkeys(SIZES, (3, 192, 256)), "rooms": (3, 96, 128)})
    for name, family, backbone, changes in SPECIAL:
        _register_tags(name, variant(family, backbone, "nyud").replace(**changes), SIZES)


def _register_tags(name: str, config: ModelConfig, sizes: Mapping[str, tuple[int, int, int]]) -> None:
    """Register a configuration with a tag for each entry of `sizes`, with the tasks of the data set it begins with."""
    tags = {}
    for tag, size in sizes.items():
        repository, revision, sha256 = HUB.get(f"{name}.{tag}", (None, None, None))
        file = str(PACKAGED[f"{name}.{tag}"]) if f"{name}.{tag}" in PACKAGED else None
        tags[tag] = PretrainedCfg(
            tag=tag, input_size=size, file=file, hf_hub_id=repository, revision=revision, sha256=sha256
        )
    register_config(name, config, tags, {tag: DATASETS[tag.partition("_")[0]] for tag in tags})


_register()
