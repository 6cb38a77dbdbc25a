"""Data sets of multi-task dense prediction, own and published, as samples for ``torchvision.transforms.v2``."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
