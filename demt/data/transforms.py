"""Training and evaluation transforms: the published ones of each data set, and a plain default for own data.

All are compositions of ``torchvision.transforms.v2`` and `demt.data.augment`: print them to see their steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision.transforms import v2

from demt.data.augment import Normalize, PadTo, PhotometricDistortion, RandomCrop, RandomScale, ResizeImage
from demt.data.variation import strong_variation
from demt.protocols import CITYSCAPES_SIZES, IMAGENET_MEAN, IMAGENET_STD, PROTOCOLS

__all__ = [
    "Normalize",
    "PadTo",
    "PhotometricDistortion",
    "RandomCrop",
    "RandomScale",
    "ResizeImage",
    "eval_transform",
    "strong_variation",
    "train_transform",
]


def train_transform(
    dataset: str | None = None,
    *,
    protocol: str | None = None,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    zoom: tuple[float, float] = (0.5, 2.0),
    strong: bool = False,
) -> v2.Compose:
    """Augmentation and normalisation for training.

    NYUD-v2, PASCAL-Context and own data: zoom by 0.5 to 2 (depth divided), a crop in which no class exceeds 75 %, flip,
    photometric distortion, normalisation, padding: the recipe of ATRC, DeMT, InvPT and their successors. Cityscapes:
    none for ``"taskprompter"`` and ``"mtmamba"``; zoom by 1, 1.2 or 1.5 and flip for ``"mtan"`` (whose code divides
    disparity by the zoom, and feeds images as they are: give mean 0 and std 1 for that).

    Args:
        dataset: ``"nyud"``, ``"pascal"``, ``"cityscapes"``, or None for own data.
        protocol: ``"atrc"`` (by default), ``"invpt"`` or ``"mtdp"`` for NYUD-v2 and PASCAL-Context; ``"taskprompter"``
            (by default), ``"mtmamba"`` or ``"mtan"`` for Cityscapes. It settles the size.
        size: Height and width of the crops; by default the published one. Needed for own data.
        mean: Mean of each channel of images in [0, 1]; a model's is ``model.pretrained_cfg.mean``.
        std: Standard deviation of each channel.
        zoom: Lowest and highest factor of the zoom; not of Cityscapes.
        strong: `strong_variation` of colour, texture, blur, noise and exposure in place of the published distortion;
            not of Cityscapes.

    Raises:
        ValueError: for an unknown data set or protocol, or own data without a size.

    Example:
        >>> [type(step).__name__ for step in train_transform("nyud").transforms]  # doctest: +NORMALIZE_WHITESPACE
        ['RandomScale', 'RandomCrop', 'RandomHorizontalFlip', 'PhotometricDistortion', 'ToDtype', 'Normalize', 'PadTo']
    """
    published = _size_of(dataset, protocol)
    chosen = size or published
    if chosen is None:
        raise ValueError("Own data needs the `size` (height, width) of training crops")
    finish = [v2.ToDtype(torch.float32, scale=True), Normalize(list(mean), list(std))]
    if dataset != "cityscapes":
        crop = [RandomScale(zoom), RandomCrop(chosen, max_share=0.75), v2.RandomHorizontalFlip(0.5)]
        return v2.Compose([*crop, strong_variation() if strong else PhotometricDistortion(), *finish, PadTo(chosen)])
    if protocol == "mtan":
        crop = [RandomScale((1.0, 1.2, 1.5), discrete=True, disparity="divide"), RandomCrop(chosen)]
        return v2.Compose([*crop, v2.RandomHorizontalFlip(0.5), *finish])
    return v2.Compose([ResizeImage(chosen), *finish])


def eval_transform(
    dataset: str | None = None,
    *,
    protocol: str | None = None,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> v2.Compose:
    """Normalisation, and padding to the published grid (the image with 0, labels with 255).

    Cityscapes is not padded: images are resized to the network's input, labels keep their size.

    Args:
        dataset: See `train_transform`, as for the other arguments.
        protocol: See there.
        size: Height and width to pad to; by default the published one. Own data is not padded by default, which fits
            batches of one.
        mean: See there.
        std: See there.

    Raises:
        ValueError: for an unknown data set or protocol.
    """
    chosen = size or _size_of(dataset, protocol)
    finish = [v2.ToDtype(torch.float32, scale=True), Normalize(list(mean), list(std))]
    if dataset == "cityscapes":
        return v2.Compose([ResizeImage(chosen), *finish] if chosen else finish)
    return v2.Compose([*finish, PadTo(chosen)] if chosen else finish)


def _size_of(dataset: str | None, protocol: str | None) -> tuple[int, int] | None:
    if dataset is None:
        if protocol is not None:
            raise ValueError(f"`protocol` {protocol!r} needs a `dataset`: 'nyud', 'pascal' or 'cityscapes'")
        return None
    if dataset == "cityscapes":
        sizes = CITYSCAPES_SIZES
    elif dataset in ("nyud", "pascal"):
        sizes = {name: known.settings(dataset).size for name, known in PROTOCOLS.items()}
    else:
        raise ValueError(f"Expected `dataset` to be 'nyud', 'pascal', 'cityscapes' or None, got {dataset!r}")
    name = next(iter(sizes)) if protocol is None else protocol
    if name not in sizes:
        raise ValueError(f"Expected `protocol` for {dataset!r} to be one of {list(sizes)}, got {protocol!r}")
    return sizes[name]
