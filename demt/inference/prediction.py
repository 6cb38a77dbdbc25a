"""What a model says about one image: arrays by task, with the image they belong to."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from demt.inference.point_cloud import Intrinsics, PointCloud, back_project
from demt.models import MultiTaskModel
from demt.tasks import Task
from demt.viz import panel, task_picture


class Prediction(dict[str, NDArray[Any]]):
    """Arrays by task, in task order: a dict, which also knows its image and tasks.

    What `demt.predict` returns; notebooks show it as a panel of pictures. It can be pickled and copied, and
    ``np.savez(file, **prediction)`` saves the arrays.

    Args:
        maps: Arrays by task, as `demt.predict` describes them.
        tasks: The tasks of these names.
        image: The image, of the arrays' size.
        confidence: How sure the network is of each task, if asked for; see `demt.predict`.
        note: A line above the panel: what the model was trained on, if known.

    Attributes:
        tasks, image, note: See above.
        confidence: Arrays in [0, 1] by task: (H, W), or (C, H, W) for several channels. Empty if not asked for.

    Example:
        >>> import demt, numpy as np
        >>> model = demt.create_model("demt_nano", tasks={"sal": 2}).eval()
        >>> demt.predict(model, np.zeros((48, 64, 3), np.uint8))
        Prediction(image 64 x 48, sal float32 (48, 64))
    """

    def __init__(
        self,
        maps: Mapping[str, NDArray[Any]],
        *,
        tasks: Mapping[str, Task],
        image: Image.Image,
        confidence: Mapping[str, NDArray[np.float32]] | None = None,
        note: str | None = None,
    ) -> None:
        super().__init__(maps)
        self.tasks = {name: tasks[name] for name in maps}
        self.image, self.note = image, note
        self.confidence = dict(confidence or {})

    def picture(self, task: str) -> Image.Image:
        """One task's map as a picture; see `demt.viz.task_picture`.

        Raises:
            ValueError: for a task that is not predicted.
        """
        if task not in self:
            raise ValueError(f"Expected `task` to be one of {list(self)}, got {task!r}")
        return task_picture(self.tasks[task], self[task])

    def panel(self, *, note: str | None = None, cell_width: int = 420) -> Image.Image:
        """The image and all maps with titles and legends; see `demt.viz.panel`."""
        return panel(self.image, self, self.tasks, note=note or self.note, cell_width=cell_width)

    def show(self) -> None:
        """Open the panel in a window, or below the cell of a notebook, as ``PIL.Image.Image.show`` does."""
        self.panel().show()

    def save(self, folder: str | PathLike[str], stem: str = "prediction", *, note: str | None = None) -> Path:
        """Write ``STEM_TASK.png``, ``STEM_panel.png`` and ``STEM.npz``, as `demt predict` does.

        Args:
            folder: Made if it is missing. Files of an earlier call are replaced.
            stem: How the names of the files begin.
            note: A line above the panel.

        Returns:
            The panel's path.

        Raises:
            ValueError: for a stem that is not a plain file name.
            FileExistsError: if another file has the name of a result; nothing is written then.
            OSError: if a file cannot be written.
        """
        # Not above: the module makes predictions of its own.
        from demt.inference.save import check_free, save_prediction

        if not isinstance(stem, str) or not stem or Path(stem).name != stem:
            raise ValueError(f"Expected `stem` to be a name without folders, got {stem!r}")
        check_free(Path(folder), [stem], self.tasks)
        return save_prediction(self, Path(folder), stem, note=note)

    def to_point_cloud(
        self,
        *,
        intrinsics: Intrinsics | None = None,
        fov: float | None = None,
        colour: str = "image",
        depth: str = "depth",
    ) -> PointCloud:
        """Depth as coloured points in the camera's axes (x to the right, y down, z forward), to save as PLY or GLB.

        Args:
            intrinsics: Of the camera: matrix (3, 3) or ``(fx, fy, cx, cy)``, in pixels of the image, the centre of the
                first at (0, 0). Depth is right only for cameras like those of the training data.
            fov: Instead of those: horizontal field of view in degrees.
            colour: ``"image"``, or a task whose picture gives the colours, such as ``"semseg"``.
            depth: The task that gives the depth along the optical axis, in metres or another unit of length. Pixels
                where it is not finite or not above 0 are left out.

        Raises:
            ValueError: for both or neither of the first two, an invalid camera, a task that is not predicted, one that
                is not depth, or one that is a disparity.
        """
        if depth not in self:
            raise ValueError(f"Expected `depth` to be one of {list(self)}, got {depth!r}")
        task = self.tasks[depth]
        if self[depth].ndim != 2 or task.activation != "identity":
            raise ValueError(f"Expected `depth` to name a task of depth, got {depth!r}, which is not one")
        if task.unit == "px":
            raise ValueError(
                f"{depth!r} is a disparity in pixels: give demt.inference.point_cloud.back_project the depth, "
                "focal length * baseline / disparity"
            )
        if colour != "image" and colour not in self:
            raise ValueError(f"Expected `colour` to be 'image' or one of {list(self)}, got {colour!r}")
        picture = self.image if colour == "image" else self.picture(colour)
        return back_project(self[depth], np.array(picture.convert("RGB")), intrinsics=intrinsics, fov=fov)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.panel().save(file, format="PNG")
        return file.getvalue()

    def __repr__(self) -> str:
        maps = (f"{name} {values.dtype} {values.shape}" for name, values in self.items())
        return f"Prediction({', '.join([f'image {self.image.width} x {self.image.height}', *maps])})"

    def __getstate__(self) -> dict[str, Any]:
        # Losses and metrics of own tasks may be functions that cannot be pickled, and nothing here calls them.
        plain: dict[str, Any] = {"loss": "l1", "loss_args": None, "metric": "rmse"}
        tasks = {name: dataclasses.replace(task, **plain) for name, task in self.tasks.items()}
        return {**self.__dict__, "tasks": tasks}


def make_prediction(
    model: MultiTaskModel,
    image: Tensor,
    maps: Mapping[str, NDArray[Any]],
    confidence: Mapping[str, NDArray[np.float32]] | None = None,
) -> Prediction:
    """What a model says about an image (C, H, W) in [0, 1]."""
    return Prediction(
        maps, tasks=model.tasks, image=as_picture(image), confidence=confidence, note=trained_on_note(model)
    )


def trained_on_note(model: MultiTaskModel) -> str | None:
    """The line above panels that says what the model was trained on, where its configuration does."""
    learnt = model.pretrained_cfg.trained_on
    return f"Trained on {learnt}." if learnt else None


def as_picture(image: Tensor) -> Image.Image:
    """An image (C, H, W) in [0, 1] as RGB: transparency over white; the mean of channels that are no colours."""
    if image.shape[0] == 4:
        image = image[:3] * image[3:] + (1 - image[3:])
    elif image.shape[0] != 3:
        image = image.mean(0, keepdim=True).expand(3, -1, -1)
    return Image.fromarray(np.rint(255 * image.permute(1, 2, 0).numpy(force=True)).astype(np.uint8))
