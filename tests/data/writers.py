"""Small data sets on disk, in every layout, written with nothing of demt; each writer returns what must come back."""

import numpy as np
from PIL import Image
from scipy.io import savemat

SIZE = (24, 32)


def picture(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **({"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}))


def array(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def mat(path, **values):
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, values, do_compression=True)


def lines(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(ids) + "\n")


def smooth_image(rng, size=SIZE):
    """An image that JPEG keeps well."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(rows / rng.uniform(8, 16) + columns / rng.uniform(8, 16)) for _ in range(3)]
    return ((np.stack(waves, -1) + 1) * 127).astype(np.uint8)


def ignored(values, invalid):
    """Labels with 255 where invalid, channel first."""
    values = np.where(invalid if values.ndim == 2 else invalid[..., None], 255, values)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def nyud(root, layout, ids=("0001", "0002", "0003"), split="val", size=SIZE):
    """NYUD-v2; returns each sample's maps, and the error that lossy files may have."""
    rng, expected = np.random.default_rng(0), {}
    for id in ids:
        image, edge = smooth_image(rng, size), rng.random(size) < 0.1
        semseg = rng.integers(0, 41, size).astype(np.uint8)
        depth = rng.uniform(0.5, 9, size).astype(np.float32)
        depth[:3] = 0
        colors = np.clip(smooth_image(rng, size) // 2 + 60, 0, 255).astype(np.uint8)
        colors[:, :, 2] = 190 + colors[:, :, 2] // 3  # no direction is near zero
        normals = 2 * colors.astype(np.float32) / 255 - 1
        if layout == "atrc":
            picture(root / f"images/{id}.png", image)
            picture(root / f"segmentation/{id}.png", semseg)
            array(root / f"depth/{id}.npy", depth)
            picture(root / f"normals/{id}.png", colors)
            picture(root / f"edge/{id}.png", edge.astype(np.uint8) * 255)
        elif layout == "vandenhende":
            normals = rng.normal(size=(*size, 3)).astype(np.float32)
            normals /= np.linalg.norm(normals, axis=2, keepdims=True)
            normals[:, :2] = 0
            picture(root / f"images/{id}.jpg", image)
            picture(root / f"segmentation/{id}.png", semseg)
            array(root / f"depth/{id}.npy", depth)
            array(root / f"normals/{id}.npy", normals)
            array(root / f"edge/{id}.npy", edge.astype(np.float64))
        else:
            picture(root / f"images/{id}.jpg", image)
            mat(root / f"segmentation/{id}.mat", segmentation=semseg)
            mat(root / f"depth/{id}.mat", depth=depth.astype(np.float64))
            picture(root / f"normals/{id}.jpg", colors)
            picture(root / f"edge/{id}.png", edge.astype(np.uint8) * 255)
        expected[id] = {
            "image": image.transpose(2, 0, 1),
            "semseg": ignored(semseg.astype(int) - 1, semseg == 0),
            "depth": ignored(depth, depth == 0),
            "normals": ignored(normals, (normals == 0).all(2)),
            "edge": edge[None].astype(np.float32),
        }
    lines(root / f"gt_sets/{split}.txt", ids)
    return expected


def person(parts, size=SIZE, kind=15):
    """One object of a PASCAL-Part file: its class, its mask, and named masks of its parts."""
    dtype = [(name, object) for name in ("class", "class_ind", "mask", "parts")]
    inner = np.zeros((1, len(parts)) if parts else (0, 0), [("part_name", object), ("mask", object)])
    for number, (name, mask) in enumerate(parts.items()):
        inner[0, number] = (name, mask.astype(np.uint8))
    item = np.zeros(1, dtype)
    item[0] = ("person" if kind == 15 else "dog", kind, np.ones(size, np.uint8), inner)
    return item


def pascal(root, ids=("2008_000002", "2008_000003", "2008_000004"), split="val", size=SIZE):
    """PASCAL-Context: the first image has two people, the second one without parts, the third a dog with a head."""
    rng, expected = np.random.default_rng(1), {}
    for number, id in enumerate(ids):
        image, semseg = smooth_image(rng, size), rng.integers(0, 21, size).astype(np.uint8)
        semseg[0] = 255
        context = np.full(size, 2, np.uint16)  # an aeroplane: normals are not valid
        context[6:, 10:] = 427  # a monitor: they are
        colors = np.clip(smooth_image(rng, size) // 2 + 60, 0, 255).astype(np.uint8)
        colors[:, :, 2] = 190 + colors[:, :, 2] // 3
        saliency = rng.integers(0, 256, size).astype(np.uint8)
        head, hand, foot = (np.zeros(size, bool) for _ in range(3))
        head[2:6, 2:9], hand[10:12, 4:6], foot[15:18, 20:30] = True, True, True
        people = [person({"head": head, "lhand": hand}, size), person({"rfoot": foot}, size)]
        objects = [people, [person({}, size)], [person({"head": head}, size, kind=12)]][number % 3]
        picture(root / f"JPEGImages/{id}.jpg", image)
        folder = "VOC12" if number % 2 else "pascal-context"
        labels = Image.fromarray(semseg)
        labels.putpalette(rng.integers(0, 256, 768).astype(np.uint8).tobytes())
        (root / f"semseg/{folder}").mkdir(parents=True, exist_ok=True)
        labels.save(root / f"semseg/{folder}/{id}.png")
        mat(root / f"human_parts/{id}.mat", anno={"imname": id, "objects": np.concatenate(objects)[None]})
        mat(root / f"pascal-context/trainval/{id}.mat", LabelMap=context)
        picture(root / f"normals_distill/{id}.png", colors)
        picture(root / f"sal_distill/{id}.png", saliency)
        parts = np.full(size, 255)
        if number % 3 == 0:
            parts[:] = 0
            parts[head], parts[hand], parts[foot] = 1, 4, 6
        expected[id] = {
            "image": image.transpose(2, 0, 1),
            "semseg": semseg[None],
            "human_parts": parts[None],
            "sal": (saliency > 127.5)[None],
            "normals": ignored(2 * colors.astype(np.float32) / 255 - 1, context == 2),
        }
    lines(root / f"ImageSets/Context/{split}.txt", ids)
    return expected


def cityscapes(root, layout="raw", count=3, split="train", size=SIZE):
    """Cityscapes, raw or as the small arrays of MTAN and LibMTL."""
    rng, expected = np.random.default_rng(2), {}
    # The 34 label ids of the data set's own table that have a train id, in its order.
    train_ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    for number in range(count):
        image = smooth_image(rng, size)
        if layout == "raw":
            id = f"aachen/aachen_{number:06d}_000019"
            labels = rng.integers(0, 34, size).astype(np.uint8)
            disparity = rng.integers(0, 30000, size).astype(np.uint16)
            disparity[:2], disparity[2] = 0, 1  # none, and a disparity of 0
            picture(root / f"leftImg8bit/{split}/{id}_leftImg8bit.png", image)
            picture(root / f"gtFine/{split}/{id}_gtFine_labelIds.png", labels)
            picture(root / f"disparity/{split}/{id}_disparity.png", disparity)
            semseg = np.full(size, 255)
            for train_id, label_id in enumerate(train_ids):
                semseg[labels == label_id] = train_id
            depth = ignored((disparity.astype(np.float64) - 1) / 256, disparity <= 1)
        else:
            id, folder = str(number), {"mtan_7": "label_7", "mtan_19": "label_19", "libmtl": "label"}[layout]
            labels = rng.integers(-1, 19 if layout == "mtan_19" else 7, size).astype(np.float32)
            disparity = rng.uniform(0.01, 0.5, (*size, 1)).astype(np.float32)
            disparity[:2] = 0
            array(root / f"{split}/image/{id}.npy", image / 255)
            array(root / f"{split}/{folder}/{id}.npy", labels)
            array(root / f"{split}/depth/{id}.npy", disparity)
            semseg = np.where(labels == -1, 255, labels)
            depth = ignored(disparity[:, :, 0], disparity[:, :, 0] == 0)
        expected[id] = {"image": image.transpose(2, 0, 1), "semseg": semseg[None], "depth": depth}
    return expected
