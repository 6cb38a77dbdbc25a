"""Class names and colours of NYUDv2 (40), PASCAL-Context (21, parts 7), Cityscapes (19) and SyntheticRooms (16)."""

from __future__ import annotations

Palette = tuple[tuple[int, int, int], ...]


def voc_palette(count: int) -> Palette:
    """The PASCAL VOC colour map: colour i takes the bits of i in turn for red, green and blue, from the top bit down.

    Example:
        >>> voc_palette(3)
        ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    """
    return tuple((_spread_bits(i), _spread_bits(i >> 1), _spread_bits(i >> 2)) for i in range(count))


def _spread_bits(index: int) -> int:
    return sum(((index >> 3 * level) & 1) << (7 - level) for level in range(8))


NYUD_CLASSES = tuple(
    """wall|floor|cabinet|bed|chair|sofa|table|door|window|bookshelf|picture|counter|blinds|desk|shelves|curtain|dresser
|pillow|mirror|floor mat|clothes|ceiling|books|refrigerator|television|paper|towel|shower curtain|box|whiteboard|person
|night stand|toilet|sink|lamp|bathtub|bag|other structure|other furniture|other prop""".replace("\n", "").split("|")
)
# NYUD has no colours of its own; skipping VOC's black keeps every class visible.
NYUD_PALETTE = voc_palette(41)[1:]

PASCAL_CLASSES = tuple(
    """background|aeroplane|bicycle|bird|boat|bottle|bus|car|cat|chair|cow|dining table|dog|horse|motorbike|person
|potted plant|sheep|sofa|train|tv monitor""".replace("\n", "").split("|")
)
PASCAL_PALETTE = voc_palette(21)

PART_CLASSES = ("background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs")
PART_PALETTE = voc_palette(7)

CITYSCAPES_CLASSES = tuple(
    """road|sidewalk|building|wall|fence|pole|traffic light|traffic sign|vegetation|terrain|sky|person|rider|car|truck
|bus|train|motorcycle|bicycle""".replace("\n", "").split("|")
)
CITYSCAPES_PALETTE: Palette = (
    (128, 64, 128),
    (244, 35, 232),
    (70, 70, 70),
    (102, 102, 156),
    (190, 153, 153),
    (153, 153, 153),
    (250, 170, 30),
    (220, 220, 0),
    (107, 142, 35),
    (152, 251, 152),
    (70, 130, 180),
    (220, 20, 60),
    (255, 0, 0),
    (0, 0, 142),
    (0, 0, 70),
    (0, 60, 100),
    (0, 80, 100),
    (0, 0, 230),
    (119, 11, 32),
)

ROOMS_CLASSES = tuple(
    """wall|floor|ceiling|door|window|picture|rug|table|chair|sofa|bed|cabinet|lamp|plant|object
|person""".replace("\n", "").split("|")
)
ROOMS_PALETTE: Palette = (
    (205, 200, 190),
    (140, 112, 84),
    (238, 238, 232),
    (96, 62, 40),
    (126, 196, 236),
    (236, 120, 190),
    (176, 64, 84),
    (230, 150, 50),
    (90, 90, 200),
    (150, 80, 170),
    (80, 160, 170),
    (110, 130, 60),
    (250, 225, 70),
    (50, 150, 60),
    (40, 60, 90),
    (220, 30, 40),
)
