"""Training and evaluation on Hugging Face Accelerate: ``pip install 'demt[train]'``."""

try:
    import accelerate as _accelerate  # noqa: F401
except ImportError as error:
    raise ImportError("demt.train needs Accelerate: pip install 'demt[train]'") from error

from demt.train.data import open_dataset
from demt.train.evaluation import evaluate
from demt.train.loop import Trained, train
from demt.train.reading import list_recipes, load_recipe, recipe_from
from demt.train.recipe import DataPart, ModelPart, OptimPart, Recipe
from demt.train.run import NonFiniteLossError

__all__ = [
    "DataPart",
    "ModelPart",
    "NonFiniteLossError",
    "OptimPart",
    "Recipe",
    "Trained",
    "evaluate",
    "list_recipes",
    "load_recipe",
    "open_dataset",
    "recipe_from",
    "train",
]
