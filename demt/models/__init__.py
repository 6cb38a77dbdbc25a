"""The networks and the table of their variants."""

from demt.models.model import MultiTaskModel

__all__ = ["MultiTaskModel"]
