from . import files, images, transforms
from .batch import collate
from .counts import TaskSummary, summary
from .dataset import MultiTaskDataset, as_multitask
from .encoding import ENCODINGS, Encoding
from .files import DataError
from .folder import MultiTaskFolder
from .hub import HubDataset
from .memory import InMemory
from .mixture import Mixture
from .published import Cityscapes, NYUDv2, PASCALContext
from .rooms import SyntheticRooms
from .tv_tensors import Boundary, Depth, Disparity, Label, SurfaceNormals

__all__ = [
    "ENCODINGS",
    "Boundary",
    "Cityscapes",
    "DataError",
    "Depth",
    "Disparity",
    "Encoding",
    "HubDataset",
    "InMemory",
    "Label",
    "Mixture",
    "MultiTaskDataset",
    "MultiTaskFolder",
    "NYUDv2",
    "PASCALContext",
    "SurfaceNormals",
    "SyntheticRooms",
    "TaskSummary",
    "as_multitask",
    "collate",
    "files",
    "images",
    "summary",
    "transforms",
]
