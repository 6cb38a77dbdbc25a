"""What published numbers depend on: evaluation protocols by name, sizes of images, their mean and deviation.

The same predictions score differently under two protocols: compare numbers only within one. `docs/protocols.md`
explains what differs and why it matters.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from demt.tasks import Task, resolve_tasks

Dataset = Literal["nyud", "pascal"]

#: Mean and standard deviation of the channels of ImageNet's images in [0, 1]; all published models normalise by them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Height and width of the images of Cityscapes that each code feeds its network with; TaskPrompter's are not resized.
CITYSCAPES_SIZES = {"taskprompter": (1024, 2048), "mtmamba": (512, 1024), "mtan": (128, 256)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """What a protocol fixes for one data set.

    Args:
        size: Height and width at which all tasks but boundaries are scored. Where an image is smaller it is padded, and
            padding is unlabelled; boundaries are scored without padding.
        edge_pos_weight: Weight of edge pixels in the training loss.
        max_distance: Largest distance at which boundary pixels match, as a share of the image's diagonal.
        edge_images: Number of test images on which boundaries are scored.
    """

    size: tuple[int, int]
    edge_pos_weight: float
    max_distance: float
    edge_images: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """An evaluation protocol. All are single scale, without flipping.

    Args:
        name: Its name.
        used_by: Whose numbers follow it.
        second_sigmoid: Whether saliency probabilities pass through another sigmoid before they are thresholded.
        edge_nms: How boundaries are thinned to maxima: see `demt.metrics.BoundaryScore`.
        edge_gt: How true boundaries are read from the label: see `demt.metrics.BoundaryScore`.
        nyud: Settings on NYUD-v2.
        pascal: Settings on PASCAL-Context.
    """

    name: str
    used_by: str
    second_sigmoid: bool
    edge_nms: Literal["seism", "mtdp"]
    edge_gt: Literal["seism", "raw"]
    nyud: DatasetSettings
    pascal: DatasetSettings

    def settings(self, dataset: str) -> DatasetSettings:
        """Settings on a data set.

        Raises:
            ValueError: for a data set that the protocol does not cover.
        """
        if dataset not in get_args(Dataset):
            raise ValueError(f"Expected `dataset` to be one of {get_args(Dataset)}, got {dataset!r}")
        found: DatasetSettings = getattr(self, dataset)
        return found

    def tasks(self, dataset: str) -> dict[str, Task]:
        """The data set's tasks with this protocol's weight of edge pixels in the loss.

        Example:
            >>> get_protocol("invpt").tasks("nyud")["edge"].loss_args
            {'pos_weight': 0.95}
        """
        weight = self.settings(dataset).edge_pos_weight
        tasks = resolve_tasks(dataset)
        return {**tasks, "edge": dataclasses.replace(tasks["edge"], loss_args={"pos_weight": weight})}


_NYUD = DatasetSettings(size=(425, 560), edge_pos_weight=0.8, max_distance=0.011, edge_images=654)
_NYUD_PADDED = dataclasses.replace(_NYUD, size=(448, 576))
_PASCAL = DatasetSettings(size=(512, 512), edge_pos_weight=0.95, max_distance=0.0075, edge_images=5105)

#: All protocols by name.
PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="atrc",
            used_by="ATRC, DeMT, DeGMix",
            second_sigmoid=False,
            edge_nms="seism",
            edge_gt="seism",
            nyud=_NYUD,
            pascal=_PASCAL,
        ),
        Protocol(
            name="invpt",
            used_by="InvPT, TaskPrompter, MTMamba",
            second_sigmoid=True,
            edge_nms="seism",
            edge_gt="seism",
            nyud=dataclasses.replace(_NYUD_PADDED, edge_pos_weight=0.95),
            pascal=dataclasses.replace(_PASCAL, edge_images=2498),
        ),
        Protocol(
            name="mtdp",
            used_by="MTDP, SAK, PRISM",
            second_sigmoid=False,
            edge_nms="mtdp",
            edge_gt="raw",
            nyud=_NYUD_PADDED,
            pascal=_PASCAL,
        ),
    )
}


def get_protocol(protocol: str | Protocol) -> Protocol:
    """A protocol by name; a `Protocol` is returned as it is.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> get_protocol("invpt").nyud.size
        (448, 576)
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ValueError(f"Expected `protocol` to be one of {sorted(PROTOCOLS)}, got {protocol!r}")
    return PROTOCOLS[protocol]
