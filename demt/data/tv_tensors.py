"""Label maps as torchvision's tv_tensors, so that pipelines of ``torchvision.transforms.v2`` keep them right.

What holds for every label map, whatever a pipeline asks for the image:

- Resizing, rotating and warping take the nearest pixel: labels are never mixed.
- Whatever comes in from outside the image (padding of any mode, corners of a rotation, a crop beyond the border) is
  unlabelled, 255; the `fill` of a transform counts for the image alone.
- A map's values follow the geometry, or the transform refuses: flips and rotations turn surface normals; shears,
  perspective and elastic warps have no meaning for normals, the last two none for depth.
- Photometric transforms pass labels by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

#: Value of pixels without a label, in maps of every task.
IGNORE = 255


class Label(tv_tensors.Mask):
    """A label map (..., C, H, W); class ids are (1, H, W) uint8. 255 marks pixels without a label.

    Raises:
        ValueError: for a dtype that cannot hold 255.
    """

    def __new__(cls, data: Any, **kwargs: Any) -> Label:
        label = super().__new__(cls, data, **kwargs)
        if label.dtype in (torch.bool, torch.int8):
            raise ValueError(f"Expected labels of a dtype that holds 255, got {label.dtype}; convert to torch.uint8")
        return label


class Depth(Label):
    """Depth along the optical axis, float32 (1, H, W), in metres. `demt.data.transforms.RandomScale` divides it."""


class Disparity(Depth):
    """Disparity in pixels of the original image, float32 (1, H, W). `RandomScale` multiplies it: nearer is larger."""


class SurfaceNormals(Label):
    """Unit normals in the camera's axes, float32 (3, H, W) of values in [-1, 1].

    A horizontal flip negates x, a vertical one y. Rotations take x to point right and y down (or left and up, which
    rotates alike), as the published transforms of NYUD-v2 and PASCAL-Context do; z is free to point either way.
    """


class Boundary(Label):
    """Boundary maps, float32 (1, H, W) in [0, 1]."""


L = TypeVar("L", bound=Label)


def _plain(kernel: Callable[..., Tensor], label: Label, *args: Any, **kwargs: Any) -> Tensor:
    return kernel(label.as_subclass(Tensor), *args, **kwargs)


def _wrap(values: Tensor, like: L) -> L:
    return tv_tensors.wrap(values, like=like)  # type: ignore[no-any-return]


def _covered(kernel: Callable[..., Tensor], label: L, *args: Any) -> L:
    """What a kernel that fills with zeros makes of a label, with 255 where it took nothing from the label."""
    inside = kernel(torch.ones(label.shape[-2:], dtype=torch.uint8, device=label.device), *args)
    values = _plain(kernel, label, *args)
    return _wrap(values.masked_fill(inside == 0, IGNORE), label)


@F.register_kernel(F.pad, Label)
def _pad(label: L, padding: list[int], fill: Any = None, padding_mode: str = "constant", **_: Any) -> L:
    return _wrap(_plain(F.pad_mask, label, padding, fill=IGNORE, padding_mode="constant"), label)


@F.register_kernel(F.crop, Label)
def _crop(label: L, top: int, left: int, height: int, width: int, **_: Any) -> L:
    if _within(label, top, left, height, width):
        return _wrap(_plain(F.crop_mask, label, top, left, height, width), label)
    return _covered(F.crop_mask, label, top, left, height, width)


@F.register_kernel(F.center_crop, Label)
def _center_crop(label: L, output_size: list[int], **_: Any) -> L:
    return _covered(F.center_crop_mask, label, output_size)


@F.register_kernel(F.resize, Label)
def _resize(label: L, size: list[int] | None, max_size: int | None = None, **_: Any) -> L:
    # Not "nearest", which is off from the image's bilinear grid by up to half a pixel.
    values = _plain(
        F.resize_image, label, size, interpolation=InterpolationMode.NEAREST_EXACT, max_size=max_size, antialias=False
    )
    return _wrap(values, label)


@F.register_kernel(F.resized_crop, Label)
def _resized_crop(label: L, top: int, left: int, height: int, width: int, size: list[int], **_: Any) -> L:
    return _resize(_crop(label, top, left, height, width), size)


@F.register_kernel(F.rotate, Label)
def _rotate(
    label: L, angle: float, expand: bool = False, center: list[float] | None = None, fill: Any = None, **_: Any
) -> L:
    return _wrap(_plain(F.rotate_mask, label, angle, expand=expand, center=center, fill=[IGNORE]), label)


@F.register_kernel(F.affine, Label)
def _affine(
    label: L,
    angle: float,
    translate: list[float],
    scale: float,
    shear: list[float],
    fill: Any = None,
    center: list[float] | None = None,
    **_: Any,
) -> L:
    values = _plain(F.affine_mask, label, angle, translate, scale, shear, fill=[IGNORE], center=center)
    return _wrap(values, label)


@F.register_kernel(F.perspective, Label)
def _perspective(
    label: L,
    startpoints: list[list[int]] | None,
    endpoints: list[list[int]] | None,
    fill: Any = None,
    coefficients: list[float] | None = None,
    **_: Any,
) -> L:
    return _wrap(
        _plain(F.perspective_mask, label, startpoints, endpoints, fill=[IGNORE], coefficients=coefficients), label
    )


@F.register_kernel(F.elastic, Label)
def _elastic(label: L, displacement: Tensor, fill: Any = None, **_: Any) -> L:
    return _wrap(_plain(F.elastic_mask, label, displacement, fill=[IGNORE]), label)


@F.register_kernel(F.horizontal_flip, SurfaceNormals)
def _flip_normals_sideways(normals: SurfaceNormals) -> SurfaceNormals:
    return _wrap(_negate(_plain(F.horizontal_flip_mask, normals), 0), normals)


@F.register_kernel(F.vertical_flip, SurfaceNormals)
def _flip_normals_upside_down(normals: SurfaceNormals) -> SurfaceNormals:
    return _wrap(_negate(_plain(F.vertical_flip_mask, normals), 1), normals)


@F.register_kernel(F.rotate, SurfaceNormals)
def _rotate_normals(normals: SurfaceNormals, angle: float, *args: Any, **kwargs: Any) -> SurfaceNormals:
    return _turn(_rotate(normals, angle, *args, **kwargs), angle)


@F.register_kernel(F.affine, SurfaceNormals)
def _affine_normals(
    normals: SurfaceNormals,
    angle: float,
    translate: list[float],
    scale: float,
    shear: list[float],
    fill: Any = None,
    center: list[float] | None = None,
    **_: Any,
) -> SurfaceNormals:
    if any(shear):
        _refuse("a shear", "surface normals")
    # Unlike `rotate`, torchvision's `affine` turns clockwise.
    return _turn(_affine(normals, angle, translate, scale, shear, center=center), -angle)


@F.register_kernel(F.perspective, Depth)
@F.register_kernel(F.perspective, SurfaceNormals)
def _refuse_perspective(label: Label, *_: Any, **__: Any) -> NoReturn:
    _refuse("a change of perspective", "depth and surface normals")


@F.register_kernel(F.elastic, Depth)
@F.register_kernel(F.elastic, SurfaceNormals)
def _refuse_elastic(label: Label, *_: Any, **__: Any) -> NoReturn:
    _refuse("an elastic warp", "depth and surface normals")


def _refuse(what: str, which: str) -> NoReturn:
    raise ValueError(
        f"{what.capitalize()} of the image would make {which} wrong; leave out the transform, or these tasks"
    )


def _within(label: Label, top: int, left: int, height: int, width: int) -> bool:
    rows, columns = label.shape[-2:]
    return top >= 0 and left >= 0 and top + height <= rows and left + width <= columns


def _negate(normals: Tensor, channel: int) -> Tensor:
    normals = normals.clone()
    component = normals[..., channel, :, :]
    component.copy_(torch.where(component == IGNORE, component, -component))
    return normals


def _turn(normals: SurfaceNormals, angle: float) -> SurfaceNormals:
    """Turn the vectors counter-clockwise, as seen on the image, by `angle` degrees."""
    x, y, z = normals.as_subclass(Tensor).unbind(-3)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turned = torch.stack([cos * x + sin * y, cos * y - sin * x, z], -3)
    unlabelled = (torch.stack([x, y, z], -3) == IGNORE).any(-3, keepdim=True)
    return _wrap(turned.masked_fill(unlabelled, IGNORE), normals)
