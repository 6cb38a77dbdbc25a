"""CPU time of `SyntheticRooms`: images a second on one core, where the time goes, and two comparisons.

OMP_NUM_THREADS=1 python -m tests.benchmarks.rooms [--images 60]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from demt.data import NYUDv2, SyntheticRooms
from demt.data.rooms import antialias, cast, develop, furnish, shade, surface
from demt.data.rooms.dice import Dice
from demt.data.rooms.scene import Scene


def seconds(function: Callable[[int], object], count: int) -> float:
    """Process CPU time of a call, the mean over indices."""
    function(0)
    start = time.process_time()
    for index in range(count):
        function(index)
    return (time.process_time() - start) / count


def everywhere(scene: Scene, size: tuple[int, int]) -> None:
    """Every ray against every solid."""
    rays = cast.Rays(scene)
    x, y = scene.camera.rays(size)
    depth, solid = cast.cast_room(rays, x, y[:, None])
    for k in range(6, len(scene.kind)):
        first, last = cast.interval(int(scene.kind[k]), float(scene.taper[k]), *rays.local(k, x, y[:, None]))
        hit = (first <= last) & (first + rays.depth[k] < depth)
        np.copyto(depth, first + rays.depth[k], where=hit)
        np.copyto(solid, np.int16(k), where=hit)


def stages(rooms: SyntheticRooms, count: int) -> dict[str, float]:
    """Time of every step of a scene."""
    size, scenes = rooms.size, [furnish.make_scene(rooms.seed, i) for i in range(count)]
    rays = [cast.Rays(scene) for scene in scenes]
    found = [cast.cast(scene, r, size) for scene, r in zip(scenes, rays)]
    seen = [surface.surface(scene, depth, solid) for scene, (depth, solid, _) in zip(scenes, found)]
    light = [shade.shade(scene, s, size) for scene, s in zip(scenes, seen)]
    steps: dict[str, Callable[[int], object]] = {
        "scene": lambda i: furnish.make_scene(rooms.seed, i),
        "ray casting": lambda i: cast.cast(scenes[i], rays[i], size),
        "points and normals": lambda i: surface.surface(scenes[i], *found[i][:2]),
        "patterns, light, shadows": lambda i: shade.shade(scenes[i], seen[i], size),
        "smooth outlines": lambda i: antialias.smooth_outlines(light[i].copy(), scenes[i], rays[i], *found[i][1:]),
        "exposure, noise": lambda i: develop.develop(light[i], Dice(0, i, 1)),
        "(every ray against every solid)": lambda i: everywhere(scenes[i], size),
    }
    return {name: seconds(step, count) for name, step in steps.items()}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60)
    count = parser.parse_args().images
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    for size in ((96, 128), (192, 256), (425, 560)):
        rooms = SyntheticRooms(size=size, length=count)
        whole = seconds(rooms.__getitem__, count)
        print(f"{size[0]} x {size[1]}: {1 / whole:6.1f} images/s, {1e3 * whole:6.1f} ms an image")
    rooms = SyntheticRooms(length=count)
    for name, value in stages(rooms, count).items():
        print(f"  {name:32s} {1e3 * value:7.1f} ms")
    with tempfile.TemporaryDirectory() as folder:
        rooms.write(Path(folder) / "rooms", "nyud", splits={"val": count})
        files = NYUDv2(Path(folder) / "rooms", "val")
        reading, making = seconds(files.__getitem__, count), seconds(rooms.__getitem__, count)
    print(f"  reading the sample from files    {1e3 * reading:7.1f} ms; making it takes {making / reading:.1f} x that")


if __name__ == "__main__":
    main()
