"""Models in folders and on the Hugging Face Hub."""

from demt.hub.remote import HUB, LOCAL, download, model_folder, push

__all__ = ["HUB", "LOCAL", "download", "model_folder", "push"]
