"""Depth as points in space, for PLY and GLB files: ``pip install 'demt[3d]'``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from demt.files import write_bytes

Intrinsics: TypeAlias = "ArrayLike | Sequence[float]"
#: From the camera's axes to those of glTF, of which y points up and z towards the viewer.
_GLTF = np.array([1, -1, -1], np.float32)


@dataclasses.dataclass(frozen=True)
class PointCloud:
    """Coloured points in the camera's axes.

    Attributes:
        points: (N, 3) float32, in the unit of the depth (metres): x to the right, y down, z forward, from the camera.
        colours: (N, 3) uint8, RGB.
        pixels: (N, 2), the row and the column of each point in the image.
    """

    points: NDArray[np.float32]
    colours: NDArray[np.uint8]
    pixels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.points)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a ``.ply`` or ``.glb`` file, which replaces an older one when it is complete.

        PLY files have the axes of `points`, as most programs that read clouds expect of cameras. GLB files have those
        of glTF, where y points up and the camera looks along -z: points are written as (x, -y, -z), so that viewers
        show the scene upright; and its linear colours, 0.2 for 124 of 255 in a picture.

        Raises:
            ValueError: for another ending.
            OSError: if the file cannot be written.
            ImportError: if trimesh is missing.
        """
        target = Path(path)
        ending = target.suffix.lower()
        if ending not in (".ply", ".glb"):
            raise ValueError(f"Expected a point cloud to end in .ply or .glb, got {str(path)!r}")
        if ending == ".glb":
            # GLB files hold a scene, here of one cloud.
            data: bytes = self._trimesh(self.points * _GLTF, _linear(self.colours)).scene().export(file_type="glb")
        else:
            data = self.to_trimesh().export(file_type="ply")
        write_bytes(target, data)

    def to_trimesh(self) -> Any:
        """The points as `trimesh.PointCloud`, in the camera's axes.

        Raises:
            ImportError: if trimesh is missing.
        """
        return self._trimesh(self.points, self.colours)

    def _trimesh(self, points: NDArray[np.float32], colours: NDArray[np.uint8]) -> Any:
        try:
            import trimesh
        except ImportError:
            raise ImportError("Point clouds as files need trimesh: pip install 'demt[3d]'") from None
        return trimesh.PointCloud(points, colors=colours)


def _linear(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colours of a picture (sRGB, IEC 61966-2-1) as amounts of light, of which 255 is the most."""
    coded = np.arange(256) / 255
    light = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    return np.rint(255 * light).astype(np.uint8)[colours]


def back_project(
    depth: NDArray[Any],
    colours: NDArray[np.uint8],
    *,
    intrinsics: Intrinsics | None = None,
    fov: float | None = None,
) -> PointCloud:
    """The points that the pixels of a pinhole camera see.

    The pixel of row v and column u with depth z lies at x = (u - cx) z / fx, y = (v - cy) z / fy. Pixels whose depth
    is not finite or not above 0 are left out.

    Args:
        depth: (H, W), along the optical axis (z, not the length of the ray).
        colours: (H, W, 3) uint8.
        intrinsics: Matrix (3, 3) ``[[fx, s, cx], [0, fy, cy], [0, 0, 1]]`` or ``(fx, fy, cx, cy)``, in pixels of this
            depth map; the centre of the first pixel is at (0, 0), as in OpenCV.
        fov: Instead of those: horizontal field of view in degrees, of square pixels around the image's centre.

    Raises:
        ValueError: for both or neither of them, or an invalid camera.
    """
    height, width = depth.shape
    matrix = camera_matrix((height, width), intrinsics=intrinsics, fov=fov)
    rows, columns = np.nonzero(np.isfinite(depth) & (depth > 0))
    z = depth[rows, columns].astype(np.float64)
    rays = np.linalg.solve(matrix, np.stack([columns, rows, np.ones(len(rows))]))
    points = (rays * z).T.astype(np.float32)
    return PointCloud(points, colours[rows, columns], np.stack([rows, columns], 1))


def camera_matrix(
    size: tuple[int, int], *, intrinsics: Intrinsics | None = None, fov: float | None = None
) -> NDArray[np.float64]:
    """The matrix (3, 3) of a pinhole camera with images of `size` (height, width); see `back_project`."""
    if (intrinsics is None) == (fov is None):
        raise ValueError("Give either `intrinsics` or `fov`, the horizontal field of view in degrees")
    if fov is not None:
        if isinstance(fov, bool) or not isinstance(fov, (int, float)) or not 0 < fov < 180:
            raise ValueError(f"Expected `fov` to be degrees between 0 and 180, got {fov!r}")
        focal = size[1] / (2 * math.tan(math.radians(fov) / 2))
        return np.array([[focal, 0, (size[1] - 1) / 2], [0, focal, (size[0] - 1) / 2], [0, 0, 1]])
    wanted = "`intrinsics` to be a matrix (3, 3) [[fx, s, cx], [0, fy, cy], [0, 0, 1]] or (fx, fy, cx, cy)"
    try:
        values = np.asarray(intrinsics, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"Expected {wanted} of numbers, got {intrinsics!r}") from None
    if values.shape == (4,):
        fx, fy, cx, cy = values
        values = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    if values.shape != (3, 3):
        raise ValueError(f"Expected {wanted}, got the shape {values.shape}")
    below = [values[1, 0], *values[2]]
    if not np.isfinite(values).all() or values[0, 0] <= 0 or values[1, 1] <= 0 or below != [0, 0, 0, 1]:
        raise ValueError(f"Expected {wanted} with focal lengths above 0, got {values.tolist()}")
    return values
