"""The pictures of docs/pointclouds.md and docs/video.md: `python -m tests.benchmarks.pictures FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import demt
from demt.data import SyntheticRooms
from demt.inference.point_cloud import PointCloud, back_project
from demt.inference.video.look import Look

SIZE = (384, 512)


def view(cloud: PointCloud, yaw: float, pitch: float, size: tuple[int, int] = (300, 400)) -> Image.Image:
    """The cloud from a camera that was turned about the middle of it, in degrees; near points cover far ones."""
    middle = np.median(cloud.points, 0)
    a, b = np.radians(yaw), np.radians(pitch)
    about_y = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    points = (cloud.points - middle) @ (about_x @ about_y).T + [0, 0, 1.25 * middle[2]]
    focal = 0.8 * size[1]
    order = np.argsort(-points[:, 2])
    points, colours = points[order], cloud.colours[order]
    near = points[:, 2] > 0.2
    points, colours = points[near], colours[near]
    columns = (size[1] / 2 + focal * points[:, 0] / points[:, 2]).astype(int)
    rows = (size[0] / 2 + focal * points[:, 1] / points[:, 2]).astype(int)
    canvas = np.full((*size, 3), 255, np.uint8)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        inside = (rows + down >= 0) & (rows + down < size[0]) & (columns + right >= 0) & (columns + right < size[1])
        canvas[rows[inside] + down, columns[inside] + right] = colours[inside]
    return Image.fromarray(canvas)


def main(folder: Path) -> None:
    rooms = SyntheticRooms(SIZE, 4, seed=2)
    model = demt.create_model("demt_lite.rooms", pretrained=True).eval()
    maps = rooms.render(3)
    image = maps["image"].transpose(1, 2, 0).copy()
    prediction = demt.predict(model, image, tta="flip")
    matrix = rooms.intrinsics(3)
    clouds = {
        "true depth": back_project(maps["depth"], image, intrinsics=matrix),
        "predicted depth": prediction.to_point_cloud(intrinsics=matrix),
        "predicted classes": prediction.to_point_cloud(intrinsics=matrix, colour="semseg"),
    }
    shown = {"image": prediction.image.resize((400, 300))}
    shown |= {name: view(cloud, yaw=25, pitch=15) for name, cloud in clouds.items()}
    canvas = Image.new("RGB", (2 * 408, 2 * 330), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (name, picture) in enumerate(shown.items()):
        x, y = index % 2 * 408, index // 2 * 330
        draw.text((x + 4, y + 4), name, "black", ImageFont.load_default(16))
        canvas.paste(picture, (x + 4, y + 26))
    canvas.quantize(128).save(folder / "pointcloud.png", optimize=True)
    Look(model.tasks, 200).beside(prediction).save(folder / "video_frame.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
