"""The files of the published data sets, made of a rendered scene.

Written from the descriptions of the formats, not from the tables of `demt.data.published_layouts`, so that the readers
are tested against something else than themselves.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demt.classes import NYUD_CLASSES, PASCAL_CLASSES, ROOMS_CLASSES

Maps = Mapping[str, NDArray[Any]]
Files = dict[str, bytes]

#: Class of NYUD-v2, of PASCAL-Context (21 classes; 59-class name's id among its 459) and label id of Cityscapes that
#: stands for each class. They only fill the files with values of the right kind.
CLASSES: dict[str, tuple[str, str, int, int]] = {
    "wall": ("wall", "background", 440, 12),
    "floor": ("floor", "background", 158, 7),
    "ceiling": ("ceiling", "background", 68, 23),
    "door": ("door", "background", 115, 13),
    "window": ("window", "background", 454, 20),
    "picture": ("picture", "background", 355, 19),
    "rug": ("floor mat", "background", 80, 8),
    "table": ("table", "dining table", 397, 11),
    "chair": ("chair", "chair", 72, 33),
    "sofa": ("sofa", "sofa", 368, 26),
    "bed": ("bed", "background", 18, 27),
    "cabinet": ("cabinet", "background", 46, 28),
    "lamp": ("lamp", "background", 232, 17),
    "plant": ("other prop", "potted plant", 308, 21),
    "object": ("books", "bottle", 33, 4),
    "person": ("person", "person", 284, 24),
}
#: Train id, of 19 classes, of the Cityscapes label ids above; 4 is a label without a class.
_TRAIN_IDS = {
    7: 0,
    8: 1,
    11: 2,
    12: 3,
    13: 4,
    17: 5,
    19: 6,
    20: 7,
    21: 8,
    23: 10,
    24: 11,
    26: 13,
    27: 14,
    28: 15,
    33: 18,
}
#: The 7 categories: flat, construction, object, nature, sky, human, vehicle.
_CATEGORIES = (0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6, 6, 6, 6, 6, 6)
#: Name of a part in PASCAL-Part's files for each class of `human_parts`.
_PARTS = ("", "head", "torso", "luarm", "llarm", "luleg", "llleg")
_PERSON = 15
#: Metres between two cameras, and half the width of the view at distance 1, from which disparity is made.
_BASELINE, _REACH = 0.05, 0.6


def nyud_atrc(maps: Maps, id: str, split: str) -> Files:
    """``NYUDv2/`` as ATRC, DeMT and InvPT read it."""
    return {
        f"images/{id}.png": png(_pixels(maps)),
        f"segmentation/{id}.png": png(_nyud_classes(maps)),
        f"depth/{id}.npy": npy(maps["depth"]),
        f"normals/{id}.png": png(_coded_normals(maps)),
        f"edge/{id}.png": png((maps["edge"] * 255).astype(np.uint8)),
    }


def nyud_vandenhende(maps: Maps, id: str, split: str) -> Files:
    """``NYUD_MT/`` of Vandenhende et al."""
    return {
        f"images/{id}.jpg": jpg(_pixels(maps)),
        f"segmentation/{id}.png": png(_nyud_classes(maps)),
        f"depth/{id}.npy": npy(maps["depth"]),
        f"normals/{id}.npy": npy(maps["normals"].transpose(1, 2, 0)),
        f"edge/{id}.npy": npy(maps["edge"]),
    }


def nyud_astmt(maps: Maps, id: str, split: str) -> Files:
    """``NYUD_MT/`` of ASTMT."""
    return {
        f"images/{id}.jpg": jpg(_pixels(maps)),
        f"segmentation/{id}.mat": mat({"segmentation": _nyud_classes(maps)}),
        f"depth/{id}.mat": mat({"depth": maps["depth"]}),
        f"normals/{id}.jpg": jpg(_coded_normals(maps)),
        f"edge/{id}.png": png((maps["edge"] * 255).astype(np.uint8)),
    }


def pascal(maps: Maps, id: str, split: str) -> Files:
    """``PASCALContext/``; classes lie in either of its two folders, as they do there."""
    classes = np.array([PASCAL_CLASSES.index(CLASSES[name][1]) for name in ROOMS_CLASSES], np.uint8)
    context = np.array([CLASSES[name][2] for name in ROOMS_CLASSES], np.uint16)
    folder = "VOC12" if int(id[-1]) % 2 == 0 else "pascal-context"
    return {
        f"JPEGImages/{id}.jpg": jpg(_pixels(maps)),
        f"semseg/{folder}/{id}.png": png(classes[maps["semseg"]]),
        f"pascal-context/trainval/{id}.mat": mat({"LabelMap": context[maps["semseg"]]}),
        f"human_parts/{id}.mat": mat({"anno": _annotation(maps, id)}),
        f"sal_distill/{id}.png": png(maps["sal"] * np.uint8(255)),
        f"normals_distill/{id}.png": png(_coded_normals(maps)),
    }


def cityscapes_raw(maps: Maps, id: str, split: str) -> Files:
    """Cityscapes as downloaded; `id` is a frame of the city "room"."""
    labels = np.array([CLASSES[name][3] for name in ROOMS_CLASSES], np.uint8)
    name = f"{split}/room/room_{id}"
    return {
        f"leftImg8bit/{name}_leftImg8bit.png": png(_pixels(maps)),
        f"gtFine/{name}_gtFine_labelIds.png": png(labels[maps["semseg"]]),
        f"disparity/{name}_disparity.png": png(np.rint(_disparity(maps) * 256 + 1).astype(np.uint16)),
    }


def cityscapes_arrays(folder: str, classes: int) -> Callable[[Maps, str, str], Files]:
    """Preprocessed Cityscapes of MTAN and LibMTL, with 19 or 7 classes in a folder of this name."""
    train = [_TRAIN_IDS.get(CLASSES[name][3], -1) for name in ROOMS_CLASSES]
    table = np.array(train if classes == 19 else [_CATEGORIES[t] if t >= 0 else -1 for t in train], np.float64)

    def files(maps: Maps, id: str, split: str) -> Files:
        width = maps["depth"].shape[1]
        return {
            f"{split}/image/{id}.npy": npy(_pixels(maps).astype(np.float32) / 255),
            f"{split}/{folder}/{id}.npy": npy(table[maps["semseg"]]),
            f"{split}/depth/{id}.npy": npy((_disparity(maps) / width)[:, :, None].astype(np.float32)),
        }

    return files


#: Writers by data set and layout; the lists of ids by data set.
FORMATS: dict[str, dict[str, Callable[[Maps, str, str], Files]]] = {
    "nyud": {"atrc": nyud_atrc, "vandenhende": nyud_vandenhende, "astmt": nyud_astmt},
    "pascal": {"atrc": pascal},
    "cityscapes": {
        "raw": cityscapes_raw,
        "mtan_7": cityscapes_arrays("label_7", 7),
        "mtan_19": cityscapes_arrays("label_19", 19),
        "libmtl": cityscapes_arrays("label", 7),
    },
}
LISTS = {"nyud": "gt_sets/{split}.txt", "pascal": "ImageSets/Context/{split}.txt"}


def _pixels(maps: Maps) -> NDArray[np.uint8]:
    return np.ascontiguousarray(maps["image"].transpose(1, 2, 0))


def _nyud_classes(maps: Maps) -> NDArray[np.uint8]:
    ids = np.array([NYUD_CLASSES.index(CLASSES[name][0]) + 1 for name in ROOMS_CLASSES], np.uint8)
    return ids[maps["semseg"]]


def _coded_normals(maps: Maps) -> NDArray[np.uint8]:
    return np.rint((maps["normals"].transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)


def _disparity(maps: Maps) -> NDArray[np.float64]:
    """In pixels, between two cameras side by side."""
    return _BASELINE * max(maps["depth"].shape) / (2 * _REACH) / maps["depth"].astype(np.float64)


def _annotation(maps: Maps, id: str) -> NDArray[Any]:
    """The structure of PASCAL-Part: a sofa without parts, then people with theirs."""
    objects = [("sofa", 18, maps["semseg"] == ROOMS_CLASSES.index("sofa"), np.zeros((0, 0)))]
    people = maps["semseg"] == ROOMS_CLASSES.index("person")
    for number in np.unique(maps["instance"][people]):
        mask = maps["instance"] == number
        present = [k for k in range(1, 7) if (mask & (maps["human_parts"] == k)).any()]
        parts = _struct(
            [(_PARTS[k], (mask & (maps["human_parts"] == k)).astype(np.uint8)) for k in present], "part_name", "mask"
        )
        objects.append(("person", _PERSON, mask, parts))
    rows = [(name, kind, mask.astype(np.uint8), parts) for name, kind, mask, parts in objects]
    return _struct([(id, _struct(rows, "class", "class_ind", "mask", "parts"))], "imname", "objects")


def _struct(rows: list[tuple[Any, ...]], *names: str) -> NDArray[Any]:
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in names])
    for i, row in enumerate(rows):
        array[0, i] = row
    return array


def png(values: NDArray[Any]) -> bytes:
    """A picture (H, W) or (H, W, 3) of 8 bits, or (H, W) of 16."""
    return _saved(values, "PNG")


def jpg(values: NDArray[np.uint8]) -> bytes:
    """A picture (H, W, 3)."""
    return _saved(values, "JPEG", quality=95, subsampling=0)


def _saved(values: NDArray[Any], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, kind, **options)
    return buffer.getvalue()


def npy(values: NDArray[Any]) -> bytes:
    """An array."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def mat(values: dict[str, Any]) -> bytes:
    """A MATLAB file. Raises `ImportError` if SciPy is missing."""
    try:
        from scipy.io import savemat
    except ImportError:
        raise ImportError("Writing .mat files needs SciPy: pip install 'demt[data]'") from None
    buffer = io.BytesIO()
    savemat(buffer, values, do_compression=True)
    return buffer.getvalue()
