"""demt: multi-task dense prediction with DeMT, DeMTG and DeGMix."""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from demt.config import ModelConfig, PretrainedCfg
    from demt.factory import create_model
    from demt.hub.card import ModelCard
    from demt.inference.fuse import fuse
    from demt.inference.predict import predict
    from demt.inference.preprocess import preprocess
    from demt.models import MultiTaskModel
    from demt.registry import is_model, list_models, register_model
    from demt.released.checkpoint import load_released
    from demt.tasks import Task

__version__ = "0.1.0.dev0"

__all__ = [
    "ModelCard",
    "ModelConfig",
    "MultiTaskModel",
    "PretrainedCfg",
    "Task",
    "__version__",
    "create_model",
    "fuse",
    "is_model",
    "list_models",
    "load_released",
    "predict",
    "preprocess",
    "register_model",
]

#: Where the names are defined. torch and timm take seconds to import: that is done when a name is first used, so that
#: the command line answers at once.
_HOMES = {
    "ModelCard": "demt.hub.card",
    "ModelConfig": "demt.config",
    "MultiTaskModel": "demt.models",
    "PretrainedCfg": "demt.config",
    "Task": "demt.tasks",
    "create_model": "demt.factory",
    "fuse": "demt.inference.fuse",
    "is_model": "demt.registry",
    "list_models": "demt.registry",
    "load_released": "demt.released.checkpoint",
    "predict": "demt.inference.predict",
    "preprocess": "demt.inference.preprocess",
    "register_model": "demt.registry",
}


def __getattr__(name: str) -> Any:
    value: Any
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif not name.startswith("_") and importlib.util.find_spec(f"demt.{name}") is not None:
        value = importlib.import_module(f"demt.{name}")
    else:
        raise AttributeError(f"module 'demt' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
