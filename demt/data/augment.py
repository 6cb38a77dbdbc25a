"""Augmentations that torchvision lacks, for samples with label maps; each works in pipelines with torchvision's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from demt.data.batch import Sample
from demt.data.images import grey
from demt.data.tv_tensors import IGNORE, Boundary, Depth, Disparity

DisparityRule = Literal["multiply", "divide"]


class RandomScale(v2.Transform):  # type: ignore[misc]
    """Zoom by a random factor s, and bring depth along: things twice as large are twice as near.

    Images are resized bilinearly without antialiasing, labels to the nearest pixel; depth is divided by s, disparity
    multiplied. Normals stay as they are. Recipes of ATRC, DeMT, InvPT and their successors (0.5 to 2) and MTAN
    (1, 1.2, 1.5) scale depth in this way; `torchvision.transforms.v2.Resize` leaves depth as it is.

    Args:
        scales: Lowest and highest factor, or the factors to choose among.
        discrete: Choose among `scales`.
        disparity: ``"multiply"``, or ``"divide"``, as MTAN's code does, which treats disparity as if it were depth.

    Raises:
        ValueError: for factors that are not positive, or an unknown `disparity`.
    """

    _transformed_types = (tv_tensors.Image, tv_tensors.Mask)

    def __init__(
        self,
        scales: Sequence[float] = (0.5, 2.0),
        *,
        discrete: bool = False,
        disparity: DisparityRule = "multiply",
    ) -> None:
        super().__init__()
        self.scales = tuple(float(scale) for scale in scales)
        if not self.scales or min(self.scales) <= 0 or (not discrete and len(self.scales) != 2):
            raise ValueError(f"Expected `scales` to be positive, (lowest, highest) unless `discrete`, got {scales}")
        if disparity not in get_args(DisparityRule):
            raise ValueError(f"Expected `disparity` to be one of {get_args(DisparityRule)}, got {disparity!r}")
        self.discrete = discrete
        self.disparity = disparity

    def make_params(self, flat_inputs: list[Any]) -> dict[str, float]:
        """Draw the factor."""
        if self.discrete:
            return {"scale": self.scales[int(torch.randint(len(self.scales), ()))]}
        return {"scale": float(torch.empty(()).uniform_(*self.scales))}

    def transform(self, inpt: Tensor, params: dict[str, float]) -> Tensor:
        """Resize one map."""
        scale = params["scale"]
        size = [max(int(side * scale), 1) for side in inpt.shape[-2:]]
        resized = self._call_kernel(F.resize, inpt, size, antialias=False)
        if isinstance(resized, Depth):
            multiply = isinstance(resized, Disparity) and self.disparity == "multiply"
            values = resized.as_subclass(Tensor)
            scaled = values * (scale if multiply else 1 / scale)
            resized = tv_tensors.wrap(torch.where(values == IGNORE, values, scaled), like=resized)
        return resized  # type: ignore[no-any-return]


class Shrink(nn.Module):
    """Shrink samples to a longest side, depth as it is: the camera stays where it was.

    Images are antialiased, labels take the nearest pixel; a boundary is kept wherever one falls into a pixel.

    Args:
        longest: Longest side in pixels; smaller samples are left.
    """

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest

    def forward(self, sample: Sample) -> Sample:
        """Resize all maps of a sample."""
        height, width = sample["image"].shape[-2:]
        factor = self.longest / max(height, width)
        if factor >= 1:
            return sample
        size = [max(round(side * factor), 1) for side in (height, width)]
        return {name: self._resized(value, size) for name, value in sample.items()}

    def _resized(self, value: Any, size: list[int]) -> Any:
        if isinstance(value, Boundary):
            values = value.as_subclass(Tensor)
            # Void is 255: the maximum would spread it.
            known = torch.where(values == IGNORE, -1, values).float()
            largest = nn.functional.adaptive_max_pool2d(known, size).to(values.dtype)
            void = nn.functional.adaptive_max_pool2d(known, size) < 0
            return tv_tensors.wrap(torch.where(void, torch.full_like(largest, IGNORE), largest), like=value)
        if isinstance(value, tv_tensors.Image):
            return F.resize(value, size, antialias=True)
        return F.resize(value, size) if isinstance(value, tv_tensors.TVTensor) else value

    def extra_repr(self) -> str:
        return f"longest={self.longest}"


class RandomCrop(nn.Module):
    """Crop to a size at random, in which no class fills too much; smaller images are left as they are on that side.

    Args:
        size: Height and width.
        max_share: Largest share of a class among the labelled pixels of the crop; after `tries` draws it is what it is.
        tries: Number of draws.
        task: Class map that is looked at; samples without it are cropped as drawn first.

    Raises:
        ValueError: when called with labels of another size than the image.
    """

    def __init__(self, size: tuple[int, int], *, max_share: float = 1.0, tries: int = 10, task: str = "semseg") -> None:
        super().__init__()
        self.size, self.max_share, self.tries, self.task = _size(size), max_share, tries, task

    def forward(self, sample: Sample) -> Sample:
        """Crop all maps of a sample."""
        _check_one_size(sample.values())
        height, width = sample["image"].shape[-2:]
        crop = (min(self.size[0], height), min(self.size[1], width))
        classes = sample.get(self.task) if self.max_share < 1 else None
        for _ in range(self.tries):
            top = int(torch.randint(height - crop[0] + 1, ()))
            left = int(torch.randint(width - crop[1] + 1, ()))
            if classes is None or self._varied(F.crop(classes, top, left, *crop)):
                break
        return {
            name: F.crop(value, top, left, *crop) if isinstance(value, tv_tensors.TVTensor) else value
            for name, value in sample.items()
        }

    def _varied(self, classes: Tensor) -> bool:
        counts = torch.bincount(classes.as_subclass(Tensor).flatten().long(), minlength=IGNORE + 1)[:IGNORE]
        return int((counts > 0).sum()) > 1 and bool(counts.max() < self.max_share * counts.sum())

    def extra_repr(self) -> str:
        return f"size={self.size}, max_share={self.max_share}, tries={self.tries}, task={self.task!r}"


class Normalize(v2.Normalize):  # type: ignore[misc]
    """`torchvision.transforms.v2.Normalize`, which with one mean makes colour images grey (the mean of the channels).

    Args:
        mean: Mean of each channel.
        std: Standard deviation of each channel.

    Raises:
        ValueError: when called with an image of other channels.
    """

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        chans = len(self.mean)
        if isinstance(inpt, tv_tensors.Image) and inpt.shape[-3] == 3 and chans == 1:
            inpt = tv_tensors.wrap(grey(inpt), like=inpt)
        if isinstance(inpt, tv_tensors.Image) and inpt.shape[-3] != chans:
            raise ValueError(
                f"Expected images of {chans} channels, as `mean` and `std` have, got {inpt.shape[-3]}; give a mean and "
                "a standard deviation for each channel, or read the images with other `in_chans`"
            )
        normalised: Tensor = super().transform(inpt, params)
        return normalised


class PadTo(v2.Transform):  # type: ignore[misc]
    """Pad to a size, the image in the middle; the image with 0, labels with 255.

    Args:
        size: Height and width.

    Raises:
        ValueError: when called with an image that is larger, or labels of another size than the image.
    """

    _transformed_types = (tv_tensors.Image, tv_tensors.Mask)

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = _size(size)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """All maps must have one size."""
        _check_one_size(flat_inputs)

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Pad one map."""
        rows, columns = (full - side for full, side in zip(self.size, inpt.shape[-2:]))
        if rows < 0 or columns < 0:
            raise ValueError(
                f"Expected images of at most {self.size[0]} x {self.size[1]} (height x width), got "
                f"{inpt.shape[-2]} x {inpt.shape[-1]}; give the transform another `size`, or resize first"
            )
        padding = [columns // 2, rows // 2, columns - columns // 2, rows - rows // 2]
        fill = IGNORE if isinstance(inpt, tv_tensors.Mask) else 0
        return inpt if not any(padding) else self._call_kernel(F.pad, inpt, padding, fill=fill)  # type: ignore[no-any-return]


class ResizeImage(v2.Transform):  # type: ignore[misc]
    """Resize the image (bilinear, antialiased) and no label: predictions are compared at the labels' size.

    Args:
        size: Height and width.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = _size(size)

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Resize the image."""
        return self._call_kernel(F.resize, inpt, list(self.size), antialias=True)  # type: ignore[no-any-return]


class PhotometricDistortion(v2.Transform):  # type: ignore[misc]
    """The photometric distortion of the published recipes, on images of uint8.

    Each with a probability of one half: brightness plus a number, contrast times a number (before or after the next
    two), saturation (HSV) times a number, hue turned; the last two of images with colour. Of more than three channels
    the first three are colour, and the others are left as they are. Unlike torchvision's `RandomPhotometricDistort`,
    brightness is added, contrast multiplies the image itself, and channels are not permuted.

    Args:
        brightness: Largest number of the 255 levels to add or subtract.
        contrast: Lowest and highest factor.
        saturation: Lowest and highest factor.
        hue: Largest turn, as a share of the full circle; the recipes' 18 are of 180.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(
        self,
        brightness: float = 32,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: float = 0.1,
    ) -> None:
        super().__init__()
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw which distortions happen, and how strong they are."""
        happens = (torch.rand(4) < 0.5).tolist()
        limits = ((-self.brightness, self.brightness), self.contrast, self.saturation, (-self.hue, self.hue))
        drawn = [float(torch.empty(()).uniform_(*pair)) if on else None for on, pair in zip(happens, limits)]
        first = bool(torch.rand(()) < 0.5)
        return {**dict(zip(("brightness", "contrast", "saturation", "hue"), drawn)), "contrast_first": first}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Distort the image."""
        if inpt.dtype != torch.uint8:
            raise ValueError(f"Expected an image of uint8, got {inpt.dtype}; distort before converting to float")
        whole = inpt.as_subclass(Tensor).float()
        image = whole[:3] if len(whole) > 3 else whole
        if params["brightness"] is not None:
            image = (image + params["brightness"]).clamp_(0, 255)
        if params["contrast"] is not None and params["contrast_first"]:
            image = (image * params["contrast"]).clamp_(0, 255)
        if params["saturation"] is not None and len(image) == 3:
            image = _saturate(image, params["saturation"])
        if params["hue"] is not None and len(image) == 3:
            image = F.adjust_hue_image(image / 255, params["hue"]) * 255
        if params["contrast"] is not None and not params["contrast_first"]:
            image = (image * params["contrast"]).clamp_(0, 255)
        image = torch.cat([image, whole[3:]]) if len(whole) > 3 else image
        return tv_tensors.wrap(image.round_().to(torch.uint8), like=inpt)  # type: ignore[no-any-return]


def _saturate(image: Tensor, factor: float) -> Tensor:
    """Multiply the saturation of HSV: S = (V - min) / V, so channels move from or to V, at most until min is 0."""
    value, least = image.amax(0), image.amin(0)
    factors = (value / (value - least).clamp_min(1e-6)).clamp_max(factor)
    return value - (value - image) * factors


def _check_one_size(maps: Iterable[Any]) -> None:
    sizes = {tuple(value.shape[-2:]) for value in maps if isinstance(value, tv_tensors.TVTensor)}
    if len(sizes) > 1:
        raise ValueError(f"Expected images and labels of the same size (height, width), got {sorted(sizes)}")


def _size(size: Sequence[int]) -> tuple[int, int]:
    if isinstance(size, int) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"Expected `size` to be (height, width) in pixels, got {size!r}")
    return size[0], size[1]
