"""demt: multi-task dense prediction with DeMT, DeMTG and DeGMix."""

from demt.tasks import Task

__version__ = "0.1.0.dev0"

__all__ = ["Task", "__version__"]
