"""A scene as an image and its ground_truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from demt.data.rooms import ground_truth
from demt.data.rooms.antialias import smooth_outlines
from demt.data.rooms.cast import Rays, cast
from demt.data.rooms.develop import develop
from demt.data.rooms.dice import Dice
from demt.data.rooms.scene import Scene
from demt.data.rooms.shade import shade
from demt.data.rooms.surface import surface


def render(scene: Scene, size: tuple[int, int], dice: Dice) -> dict[str, NDArray[Any]]:
    """Image (3, H, W) uint8 and the six label maps of a scene; `dice` gives exposure and noise.

    Returns:
        ``image``; ``semseg``, ``human_parts``, ``sal`` (H, W) uint8; ``normals`` (3, H, W), ``depth`` and ``edge``
        (H, W) float32; ``instance`` (H, W) int32, the number of the thing a pixel shows (0 to 5: the room's faces).
    """
    # Rays along a face or past a cone divide by zero and take roots of negative numbers: they miss.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rays = Rays(scene)
        depth, solid, bounds = cast(scene, rays, size)
        seen = surface(scene, depth, solid)
        light = shade(scene, seen, size)
        smooth_outlines(light, scene, rays, solid, bounds)
        return {
            "image": develop(light, dice),
            "semseg": ground_truth.semseg(scene, solid),
            "human_parts": ground_truth.human_parts(scene, solid),
            "sal": ground_truth.saliency(scene, solid),
            "normals": ground_truth.normals(scene, seen, size),
            "depth": depth,
            "edge": ground_truth.edges(scene, solid),
            "instance": scene.instance[solid].astype(np.int32),
        }
