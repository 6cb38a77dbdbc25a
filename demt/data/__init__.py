"""Data sets of multi-task dense prediction, own and published, as samples for ``torchvision.transforms.v2``."""
