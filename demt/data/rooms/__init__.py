"""Synthetic rooms: scenes from a seed, a ray caster for them, and the data set made of both."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
