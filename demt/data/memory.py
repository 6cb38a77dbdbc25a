"""A data set that keeps what it has read."""

from __future__ import annotations

from demt.data.batch import Sample
from demt.data.dataset import MultiTaskDataset, Transform


class InMemory(MultiTaskDataset):
    """Another data set's samples, each read once and kept, for data that is slow to read and small enough to hold.

    The transform is applied anew every time. Workers of a ``DataLoader`` that are started afterwards share what has
    been read on systems that fork; what a worker reads itself, it keeps for itself.

    Args:
        dataset: The data set. Its samples are kept as `read` gives them: uint8 images, label maps as they are.
        transform: By default the data set's own.

    Example:
        >>> from demt.data import SyntheticRooms
        >>> kept = InMemory(SyntheticRooms(size=(24, 32), length=2))
        >>> kept.read(0)["image"] is kept.read(0)["image"]
        True
    """

    def __init__(self, dataset: MultiTaskDataset, transform: Transform | None = None) -> None:
        if dataset.mixed:
            raise ValueError(
                "The sources of a mixture have their own transforms: keep the sources in memory, and mix those"
            )
        transform = dataset.transform if transform is None else transform
        super().__init__(dataset.ids, dataset.tasks, transform=transform, on_error=dataset.on_error)
        self.dataset = dataset
        self._kept: dict[int, Sample] = {}

    def labels_of(self, index: int) -> list[str]:
        """See `MultiTaskDataset.labels_of`."""
        return self.dataset.labels_of(index)

    def read(self, index: int) -> Sample:
        """The sample at `index`, before the transform; a new dictionary of the same maps. Raises `DataError`."""
        if index not in self._kept:
            self._kept[index] = self.dataset.read(index)
        return dict(self._kept[index])
