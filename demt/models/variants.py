"""The table of variants: families × published backbones, small ones (nano, lite), and DINO backbones."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from demt.config import BASELINES, ModelConfig, PretrainedCfg
from demt.protocols import CITYSCAPES_SIZES, PROTOCOLS
from demt.tasks import DATASETS

#: What the models of each family are made of; those of the papers as released. Plain ViTs have a neck of their own.
FAMILIES: dict[str, dict[str, Any]] = {
    "demt": {"depth": 1, "heads": 4},
    "demtg": {"depth": 2, "heads": 2, "gating": True},
    "degmix": {"depth": 2, "heads": 2, "gating": True, "query": "linear", "pre_norm": True},
    "multitask_baseline": {},
    # In no paper: the baseline, and logits refined at half the image's size (docs/comparison.md).
    "refined_baseline": {"refine_width": 8},
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
#: Backbones without labels in their training, which no paper of these families used; timm names as above.
DINO: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov2_small": ("vit_small_patch14_dinov2.lvd142m", {}),
    "dinov2_base": ("vit_base_patch14_dinov2.lvd142m", {}),
    "dinov3_small": ("vit_small_patch16_dinov3.lvd1689m", {}),
}
#: Small models, in no paper either: timm name, changes, and how images are prepared where not as for ImageNet.
SMALL: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "nano": ("mobilenetv4_conv_small.e2400_r224_in1k", {"width": 64, "head_width": 32}, {}),
    "lite": (
        "tf_efficientnet_lite0.in1k",
        {"width": 64, "head_width": 32, "initial_offsets": "zero"},
        {"mean": (0.5,) * 3, "std": (0.5,) * 3},
    ),
}

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
    for name in ("demt_nano.rooms", "multitask_baseline_nano.rooms", "demt_lite.rooms", "demt_lite.photos")
}
#: What single ones of them have beside what their name says of the others of that name.
REFINED: dict[str, dict[str, Any]] = {
    "demt_lite.photos": {"refine_width": 16, "refine_stages": {"edge": (4, 24)}},
    "demt_lite.rooms": {"refine_width": 8},
}
#: Their scores on 300 rooms of 96 × 128 not used in training, by task, in the units of published results.
SCORES: dict[str, dict[str, float]] = {
    "demt_nano.rooms": {
        "semseg": 53.2,
        "human_parts": 40.4,
        "sal": 67.7,
        "normals": 14.6,
        "depth": 0.598,
        "edge": 55.2,
    },
    "multitask_baseline_nano.rooms": {
        "semseg": 61.7,
        "human_parts": 50.0,
        "sal": 76.8,
        "normals": 13.2,
        "depth": 0.581,
        "edge": 56.1,
    },
    "demt_lite.rooms": {
        "semseg": 67.2,
        "human_parts": 51.1,
        "sal": 79.3,
        "normals": 12.0,
        "depth": 0.513,
        "edge": 61.3,
    },
}

#: What the weights of a data set's tag were trained on.
TRAINED_ON = {
    "nyud": "NYUD-v2 (photographs of rooms)",
    "pascal": "PASCAL-Context (photographs)",
    "cityscapes": "Cityscapes (photographs of streets)",
    "rooms": "synthetic rooms",
    "photos": "synthetic rooms; boundaries, saliency and what is near on photographs too",
}

#: Training sizes of the data sets.
SIZES = {
    "nyud": (3, *PROTOCOLS["atrc"].nyud.size),
    "pascal": (3, *PROTOCOLS["atrc"].pascal.size),
    "cityscapes": (3, *CITYSCAPES_SIZES["mtmamba"]),
}


def variant(family: str, backbone: str, tasks: Any) -> ModelConfig:
    """Configuration of a published family on a published or DINO backbone (short name).

    Raises:
        KeyError: for a family or backbone that is in no table.
        ValueError: for tasks that `demt.tasks.resolve_tasks` does not take.
    """
    name, arguments = {**BACKBONES, **DINO}[backbone]
    options = dict(FAMILIES[family])
    if backbone.startswith("vit"):
        # Released DeGMix on ViT-B has heads as wide as on Swin-T (1440 / 8).
        options["head_width"] = 180
    return ModelConfig(family=family, backbone=name, backbone_kwargs=arguments, tasks=tasks, **options)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of the table: what a model is made of, and how its images are prepared and where its weights are.

    Raises:
        ValueError: if it names a Hub repository without its full commit hash and the weights' sha256.
    """

    config: ModelConfig
    pretrained_cfg: PretrainedCfg

    def __post_init__(self) -> None:
        cfg = self.pretrained_cfg
        if cfg.hf_hub_id and not (cfg.sha256 and re.fullmatch("[0-9a-f]{40}", cfg.revision or "")):
            raise ValueError(
                f"Expected `revision` as a full commit hash and the `sha256` of the weights beside "
                f"hf_hub_id={cfg.hf_hub_id!r}, got {cfg.revision!r} and {cfg.sha256!r}"
            )


def make_table(hub: Mapping[str, tuple[str, str, str]]) -> dict[str, Variant]:
    """Every model by its full name, ``arch.tag``; the first tag of an arch is its default.

    Args:
        hub: Models on the Hugging Face Hub, as in `HUB`.

    Raises:
        ValueError: if an entry of `hub` is not pinned; see `Variant`.
    """
    table = {}
    for arch, config, sizes, preprocessing in _archs():
        for tag, size in sizes.items():
            name = f"{arch}.{tag}"
            dataset = tag.partition("_")[0]
            repository, revision, sha256 = hub.get(name, (None, None, None))
            cfg = PretrainedCfg(
                **preprocessing,
                tag=tag,
                input_size=size,
                trained_on=TRAINED_ON[dataset],
                file=str(PACKAGED[name]) if name in PACKAGED else None,
                hf_hub_id=repository,
                revision=revision,
                sha256=sha256,
            )
            table[name] = Variant(config.replace(tasks=DATASETS[dataset], **REFINED.get(name, {})), cfg)
    return table


def _archs() -> Iterator[tuple[str, ModelConfig, dict[str, tuple[int, int, int]], dict[str, Any]]]:
    """Names without tags, their configuration, the image size of each tag, which begins with its data set, and how
    images are prepared.
    """
    small_sizes = {**dict.fromkeys(SIZES, (3, 192, 256)), "rooms": (3, 96, 128), "photos": (3, 288, 384)}
    for family, options in FAMILIES.items():
        for backbone in {**BACKBONES, **DINO}:
            tuning = TUNING.get(backbone, ()) if family in ("demtg", "degmix") else ()
            sizes = {**SIZES, **{f"{tag}_tuning": SIZES[tag] for tag in tuning}}
            yield f"{family}_{backbone}", variant(family, backbone, "nyud"), sizes, {}
        for short, (backbone, changes, preprocessing) in SMALL.items():
            # A baseline has no decoder, so none of its offsets.
            fields = {n: v for n, v in changes.items() if n != "initial_offsets" or family not in BASELINES}
            config = ModelConfig(family=family, backbone=backbone, tasks="nyud", **{**options, **fields})  # type: ignore[arg-type]
            yield f"{family}_{short}", config, small_sizes, preprocessing
    for name, family, backbone, changes in SPECIAL:
        yield name, variant(family, backbone, "nyud").replace(**changes), SIZES, {}


#: Every built-in model by its full name.
MODELS = make_table(HUB)
