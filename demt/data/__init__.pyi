from . import transforms
from .batch import collate
from .dataset import MultiTaskDataset
from .encoding import ENCODINGS, Encoding
from .files import DataError
from .folder import MultiTaskFolder
from .memory import InMemory
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
    "InMemory",
    "Label",
    "MultiTaskDataset",
    "MultiTaskFolder",
    "NYUDv2",
    "PASCALContext",
    "SurfaceNormals",
    "SyntheticRooms",
    "collate",
    "transforms",
]
