"""Any timm model as a backbone with four feature maps."""

from demt.backbones.adapter import FeatureBackbone
from demt.backbones.factory import create_backbone, create_stages
from demt.backbones.weights import load_backbone

__all__ = ["FeatureBackbone", "create_backbone", "create_stages", "load_backbone"]
