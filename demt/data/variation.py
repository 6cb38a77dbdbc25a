"""Strong variation of how images look, for rooms that are to teach something of photographs."""

from __future__ import annotations

import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


class RandomGamma(v2.Transform):  # type: ignore[misc]
    """Another exposure: channels of [0, 1] to the power of a number; the lower one is, the brighter.

    Args:
        lowest, highest: Of the exponent, whose logarithm is drawn uniformly.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, lowest: float = 0.5, highest: float = 2.0) -> None:
        super().__init__()
        if not 0 < lowest <= highest:
            raise ValueError(f"Expected 0 < `lowest` <= `highest`, got {lowest} and {highest}")
        self.lowest, self.highest = lowest, highest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the exponent."""
        return {"gamma": self.lowest * (self.highest / self.lowest) ** float(torch.rand(()))}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Change the image."""
        return self._call_kernel(F.adjust_gamma, inpt, params["gamma"])  # type: ignore[no-any-return]


class RandomTexture(v2.Transform):  # type: ignore[misc]
    """Cloudy noise of several scales multiplied onto the image, in each channel for itself or in all alike.

    Args:
        strength: Largest deviation of the factors from 1, about.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, strength: float = 0.4) -> None:
        super().__init__()
        self.strength = strength

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the noise, as large as the image."""
        image = next(value for value in flat_inputs if isinstance(value, tv_tensors.Image))
        channels, *size = image.shape[-3:]
        clouds = torch.zeros(1, channels if torch.rand(()) < 0.5 else 1, *size)
        for octave in range(1, 7):
            cells = [min(2**octave, side) for side in size]
            grid = torch.rand(1, clouds.shape[1], *cells) * 2 - 1
            clouds += torch.rand(()) * functional.interpolate(grid, size=size, mode="bicubic", align_corners=False)
        clouds /= clouds.abs().max().clamp_min(1e-6)
        return {"factors": 1 + self.strength * float(torch.rand(())) * clouds[0]}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Multiply the image."""
        values = inpt.as_subclass(Tensor) * params["factors"]
        return tv_tensors.wrap(values.round().clamp(0, 255).to(torch.uint8), like=inpt)  # type: ignore[no-any-return]


class RandomCompression(v2.Transform):  # type: ignore[misc]
    """JPEG's traces (by Pillow: torchvision's own is deprecated).

    Args:
        lowest, highest: Of the quality.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, lowest: int = 25, highest: int = 90) -> None:
        super().__init__()
        self.lowest, self.highest = lowest, highest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the quality."""
        return {"quality": int(torch.randint(self.lowest, self.highest + 1, ()))}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Write and read the image."""
        file = io.BytesIO()
        F.to_pil_image(inpt).save(file, format="JPEG", quality=params["quality"])
        return tv_tensors.wrap(F.pil_to_tensor(Image.open(file, formats=["JPEG"])), like=inpt)  # type: ignore[no-any-return]


def strong_variation() -> v2.Compose:
    """Colour, exposure, texture, blur, compression and noise, each by chance; geometry and labels stay as they are.

    For images of uint8 with one channel or three. Mostly torchvision's own transforms: print it to see them.

    Example:
        >>> [type(step).__name__ for step in strong_variation().transforms][:3]
        ['RandomApply', 'RandomApply', 'RandomApply']
    """

    def noise(sigma: float) -> v2.Compose:
        to_float, to_bytes = (v2.ToDtype(dtype, scale=True) for dtype in (torch.float32, torch.uint8))
        return v2.Compose([to_float, v2.GaussianNoise(sigma=sigma), to_bytes])

    return v2.Compose(
        [
            v2.RandomApply([RandomTexture()], 0.4),
            v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.5, saturation=0.7, hue=0.2)], 0.9),
            v2.RandomApply([RandomGamma()], 0.5),
            v2.RandomChoice([v2.RandomAutocontrast(1.0), v2.RandomEqualize(1.0), v2.Identity()], p=[0.1, 0.1, 0.8]),
            v2.RandomApply([v2.RandomChannelPermutation()], 0.1),
            v2.RandomGrayscale(0.1),
            v2.RandomApply([v2.GaussianBlur(7, (0.3, 1.5))], 0.3),
            v2.RandomApply([v2.RandomChoice([noise(0.02), noise(0.05), noise(0.1)])], 0.3),
            v2.RandomApply([RandomCompression()], 0.3),
        ]
    )
