"""Data sets of multi-task dense prediction, own and published, as samples for ``torchvision.transforms.v2``."""

from demt.data import transforms
from demt.data.collate import collate
from demt.data.dataset import MultiTaskDataset
from demt.data.encoding import ENCODINGS, Encoding
from demt.data.files import DataError
from demt.data.folder import MultiTaskFolder
from demt.data.memory import InMemory
from demt.data.published import Cityscapes, NYUDv2, PASCALContext
from demt.data.rooms import SyntheticRooms
from demt.data.tv_tensors import Boundary, Depth, Disparity, Label, SurfaceNormals

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
