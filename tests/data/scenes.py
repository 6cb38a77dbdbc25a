"""Analytic scenes seen by a pinhole camera: x to the right, y down, z away from the camera; normals towards it."""

import numpy as np
import torch
from torchvision import tv_tensors

from demt.data import Boundary, Depth, Label, SurfaceNormals

FOCAL = 90.0


def plane(normal, size, focal=FOCAL, distance=3.0):
    """Depth of the plane n·X = -distance, and its unit normal at each pixel; the principal point is the centre."""
    normal = np.array(normal) / np.linalg.norm(normal)
    depth = -distance / (rays(size, focal) @ normal)
    return depth, np.broadcast_to(normal, (*size, 3))


def sphere(size, focal=FOCAL, center=(0.3, -0.2, 4.0), radius=1.0):
    """Depth of a sphere and its normals; 0 and zero vectors beside it."""
    ray, center = rays(size, focal), np.array(center)
    a, b, c = (ray**2).sum(2), ray @ center, center @ center - radius**2
    inside = b**2 - a * c > 0
    depth = np.where(inside, (b - np.sqrt(np.where(inside, b**2 - a * c, 0))) / a, 0)
    normals = np.where(inside[..., None], (ray * depth[..., None] - center) / radius, 0)
    return depth, normals


def rays(size, focal):
    """Directions of the pixels, with z of 1; `focal` may differ between y and x."""
    vertical, horizontal = np.broadcast_to(focal, 2)
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    x, y = (columns - size[1] / 2) / horizontal, (rows - size[0] / 2) / vertical
    return np.stack([x, y, np.ones(size)], -1)


def normals_of_depth(depth, focal=FOCAL):
    """Normals towards the camera by central differences of the back-projected points, (H, W, 3)."""
    points = rays(depth.shape, focal) * depth[..., None]
    right, down = np.gradient(points, axis=1), np.gradient(points, axis=0)
    normals = np.cross(down, right)
    return normals / np.maximum(np.linalg.norm(normals, axis=2, keepdims=True), 1e-12)


def plane_normal_of_depth(depth, focal=FOCAL):
    """Normal of the one plane whose depth this is (0 where unknown): its inverse depth is linear in the ray."""
    known = depth > 0
    normal = np.linalg.lstsq(rays(depth.shape, focal)[known], 1 / depth[known], rcond=None)[0]
    return -normal / np.linalg.norm(normal)


def angle(a, b):
    """Angle between unit vectors, in degrees."""
    return np.degrees(np.arccos(np.clip((a * b).sum(-1), -1, 1)))


def sample(depth, normals, semseg=None):
    """A sample of a scene; edges are where a pixel's class differs from that of its left or upper neighbour."""
    size = depth.shape
    semseg = np.zeros(size, np.uint8) if semseg is None else semseg
    depth, normals = np.where(depth == 0, 255, depth), np.where((normals == 0).all(2, keepdims=True), 255, normals)
    edge = np.zeros(size, bool)
    edge[1:] |= semseg[1:] != semseg[:-1]
    edge[:, 1:] |= semseg[:, 1:] != semseg[:, :-1]
    image = np.repeat(semseg[None] * 40, 3, 0).astype(np.uint8)
    return {
        "image": tv_tensors.Image(torch.from_numpy(image)),
        "semseg": Label(torch.from_numpy(semseg)[None]),
        "depth": Depth(torch.from_numpy(depth.astype(np.float32))[None]),
        "normals": SurfaceNormals(torch.from_numpy(normals.astype(np.float32)).permute(2, 0, 1)),
        "edge": Boundary(torch.from_numpy(edge.astype(np.float32))[None]),
        "id": "scene",
    }


def numpy(label):
    """(H, W) or (H, W, C), with 0 in place of 255."""
    values = label.as_subclass(torch.Tensor).numpy()
    values = np.where(values == 255, 0, values).astype(np.float64)
    return values[0] if len(values) == 1 else values.transpose(1, 2, 0)
