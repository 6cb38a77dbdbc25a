"""demt: multi-task dense prediction with DeMT, DeMTG and DeGMix."""

from demt.card import ModelCard
from demt.config import ModelConfig, PretrainedCfg
from demt.factory import create_model
from demt.fuse import fuse
from demt.images import preprocess
from demt.models import MultiTaskModel
from demt.predict import predict
from demt.registry import is_model, list_models, register_model
from demt.released import load_released
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
