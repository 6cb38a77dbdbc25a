"""The network, and the table of its variants."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from demt.models.model import MultiTaskModel

__all__ = ["MultiTaskModel"]


def __getattr__(name: str) -> Any:
    # The table needs neither timm nor the network.
    if name == "MultiTaskModel":
        from demt.models.model import MultiTaskModel

        return MultiTaskModel
    raise AttributeError(f"module 'demt.models' has no attribute {name!r}")
