from .dataset import SyntheticRooms
from .furnish import make_scene
from .renderer import render

__all__ = ["SyntheticRooms", "make_scene", "render"]
