"""Label maps of a rendered scene."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demt.classes import ROOMS_CLASSES
from demt.data.rooms.scene import Floats, Scene
from demt.data.rooms.surface import Surface

#: Share of the image from which people count as salient.
_PEOPLE = 0.005


def semseg(scene: Scene, solid: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Class ids (H, W) of `demt.classes.ROOMS_CLASSES`."""
    ids = np.array([ROOMS_CLASSES.index(name) for name in scene.names], np.uint8)
    return ids[scene.instance][solid]


def human_parts(scene: Scene, solid: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Body parts (H, W), 1 to 6; 0 is no person."""
    return scene.body[solid]


def saliency(scene: Scene, solid: NDArray[np.int16]) -> NDArray[np.uint8]:
    """1 on all people if they cover at least 0.5 % of the image, else on its most prominent thing; (H, W).

    Prominence is the sum, over a thing's visible pixels, of (1 − x²)·(1 − y²) with x and y from −1 to 1 over the
    image: large and central wins. What belongs to the room (walls, doors, windows, pictures, rugs) does not take part.
    """
    instance = scene.instance[solid]
    people = np.array([name == "person" for name in scene.names])
    shown = people[instance]
    if shown.sum() >= _PEOPLE * shown.size:
        return shown.astype(np.uint8)
    height, width = solid.shape
    # Whole numbers, so that the order of the sum does not matter.
    rows = height**2 - (2 * np.arange(height) + 1 - height) ** 2
    columns = width**2 - (2 * np.arange(width) + 1 - width) ** 2
    weight = rows[:, None] * columns
    prominence = np.zeros(len(scene.names), np.int64)
    np.add.at(prominence, instance.ravel(), weight.ravel())
    prominence[np.array(scene.fixed)] = 0
    best = int(prominence.argmax())
    return ((instance == best) & (prominence[best] > 0)).astype(np.uint8)


def edges(scene: Scene, solid: NDArray[np.int16]) -> Floats:
    """1 on both pixels wherever two neighbours differ in instance or body part, (H, W): lines two pixels wide."""
    key = (scene.instance * 8 + scene.body)[solid]
    result = np.zeros(key.shape, np.float32)
    across, down = key[:, 1:] != key[:, :-1], key[1:] != key[:-1]
    for part, marks in ((result[:, 1:], across), (result[:, :-1], across), (result[1:], down), (result[:-1], down)):
        part[marks] = 1
    return result


def normals(scene: Scene, seen: Surface, size: tuple[int, int]) -> Floats:
    """Unit normals (3, H, W) in the camera's frame: x to the left, y up, z towards the camera."""
    n = seen.normal
    camera = scene.camera
    axes = np.array([camera.right, camera.down, camera.forward], np.float32)
    return np.stack([-((a[0] * n[0] + a[1] * n[1]) + a[2] * n[2]) for a in axes]).reshape(3, *size)
