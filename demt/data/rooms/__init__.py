"""Synthetic rooms: scenes from a seed, a ray caster for them, and the data set made of both."""

from demt.data.rooms.dataset import SyntheticRooms
from demt.data.rooms.furnish import make_scene
from demt.data.rooms.render import render

__all__ = ["SyntheticRooms", "make_scene", "render"]
