"""Models as files that run elsewhere: ONNX, programs of `torch.export`, compiled packages of AOTInductor."""

from demt.export.capture import ExportError
from demt.export.write import TOLERANCE, Exported, describe, export

__all__ = ["TOLERANCE", "ExportError", "Exported", "describe", "export"]
