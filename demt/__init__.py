"""demt: multi-task dense prediction with DeMT, DeMTG and DeGMix."""

from importlib.util import find_spec

import lazy_loader

#: The version of this package.
__version__ = "0.1.0"

# torch and timm take seconds to import: the names of __init__.pyi are loaded when they are first used.
__getattr__, _list, _names = lazy_loader.attach_stub(__name__, __file__)

# Modules are reached as attributes, but a star import, which would load them all, leaves them out.
__all__ = ["__version__", *(name for name in _names if find_spec(f"{__name__}.{name}") is None)]


def __dir__() -> list[str]:
    return sorted({*_list(), "__version__"})
