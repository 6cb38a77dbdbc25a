"""Model cards: what a model is, as the README.md beside its weights."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from huggingface_hub import ModelCardData
from PIL import Image

from demt.config import ModelConfig, PretrainedCfg
from demt.files import write_whole
from demt.hub.folder import CARD
from demt.tasks import DATASETS, Task

PICTURE = "predictions.png"
_NOT_STATED = "*not stated*"
_FAMILIES = {
    "demt": "DeMT",
    "demtg": "DeMTG",
    "degmix": "DeGMix",
    "multitask_baseline": "Multi-task baseline",
    "refined_baseline": "Refined baseline",
}
_PREDICTIONS = {
    "argmax": "class ids",
    "foreground": "probability",
    "sigmoid": "probability",
    "unit": "unit vectors",
    "identity": "values",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a model card says that the model itself does not know. What is left out appears in the card as not stated.

    Args:
        title: Heading; by default family, backbone, and data set or tasks.
        summary: A paragraph below it, in Markdown.
        licence: Of the weights, as the Hub names licences: ``"mit"``, ``"cc-by-nc-4.0"``, ``"other"``…
        training_data: What the model was trained on: data set, split, number of images.
        initial_weights: What training started from, e.g. timm's name of the backbone's weights.
        results: Results by ``"task/metric"``, as `demt.metrics.MultiTaskMetrics.compute` returns them.
        protocol: How they were measured: protocol, data set, split, image size.
        picture: A picture of predictions (see `demt.viz.panel`), or the path of an image file; written as PNG.

    Raises:
        ValueError: if there are results without `protocol`, or a key is not ``"task/metric"``.
    """

    title: str | None = None
    summary: str | None = None
    licence: str | None = None
    training_data: str | None = None
    initial_weights: str | None = None
    results: Mapping[str, float] | None = dataclasses.field(default=None, hash=False)
    protocol: str | None = None
    picture: Image.Image | str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.results and not self.protocol:
            raise ValueError("Expected `protocol` beside `results`: without it numbers mean nothing")
        if wrong := [key for key in self.results or {} if "/" not in key]:
            raise ValueError(f"Expected keys 'task/metric' in `results`, got {wrong}")


def write_card(
    folder: Path, card: ModelCard, config: ModelConfig, pretrained_cfg: PretrainedCfg, parameters: int, source: str
) -> None:
    """Write README.md and the card's picture; `parameters` is their number, `source` what `create_model` loads."""
    if card.picture is not None:
        picture = card.picture
        if not isinstance(picture, Image.Image):
            # Data sets bring torchvision with them, and few cards have pictures of files.
            from demt.data.files import open_picture

            picture = open_picture(Path(picture)).convert("RGB")
        write_whole(folder / PICTURE, lambda target: picture.save(target, format="PNG"))
    text = card_text(card, config, pretrained_cfg, parameters, source)
    write_whole(folder / CARD, lambda target: Path(target).write_text(text, encoding="utf-8"))


def card_text(card: ModelCard, config: ModelConfig, pretrained_cfg: PretrainedCfg, parameters: int, source: str) -> str:
    """The card as Markdown with the Hub's metadata in front.

    Raises:
        ValueError: if results name a task that the model does not have.
    """
    if unknown := sorted({key.split("/")[0] for key in card.results or {}} - set(config.tasks)):
        raise ValueError(f"Results of tasks {unknown} that the model does not have; its tasks are {list(config.tasks)}")
    tag = pretrained_cfg.tag
    # The tag may be the one of a variant that was given other tasks.
    what = tag if dict(config.tasks) == DATASETS.get(tag) else ", ".join(config.tasks)
    title = card.title or f"{_FAMILIES.get(config.family, config.family)} on {config.backbone.split('.')[0]}: {what}"
    channels, height, width = pretrained_cfg.input_size
    sections = [
        f"---\n{_metadata(card, config).to_yaml()}\n---",
        f"# {title}",
        card.summary or "",
        f"![The image and the prediction of every task]({PICTURE})" if card.picture is not None else "",
        f"""## Use

```bash
pip install demt
```

```python
import demt

model = demt.create_model("{source}").eval()
prediction = demt.predict(model, "photo.jpg")  # {{{", ".join(f'"{name}": …' for name in config.tasks)}}}
```""",
        f"## Tasks\n\n{_task_table(config.tasks)}",
        f"## Results\n\n{_results(card, config)}",
        f"""## Model

| | |
|---|---|
| family | {config.family} |
| backbone | {config.backbone} |
| parameters | {parameters / 1e6:.2f} M |
| initial weights | {card.initial_weights or _NOT_STATED} |
| training data | {card.training_data or pretrained_cfg.trained_on or _NOT_STATED} |
| image size | {height} x {width}, {channels} channels |
| evaluated at | {_scale(pretrained_cfg)} |
| images | in [0, 1], minus {list(pretrained_cfg.mean)}, divided by {list(pretrained_cfg.std)} |
| licence of the weights | {card.licence or _NOT_STATED} |

DeMT: [arXiv 2301.03461](https://arxiv.org/abs/2301.03461); DeMTG and DeGMix:
[arXiv 2308.05721](https://arxiv.org/abs/2308.05721).""",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _scale(cfg: PretrainedCfg) -> str:
    return "the images' own size" if cfg.max_size is None else f"a longest side of {cfg.max_size}; never enlarged"


def _metadata(card: ModelCard, config: ModelConfig) -> ModelCardData:
    segments = any(task.activation in ("argmax", "foreground") for task in config.tasks.values())
    pipeline = "image-segmentation" if segments else "depth-estimation" if "depth" in config.tasks else "image-to-image"
    tags = ["demt", config.family, "multi-task-learning", "dense-prediction", *config.tasks]
    return ModelCardData(library_name="demt", pipeline_tag=pipeline, license=card.licence, tags=tags)


def _task_table(tasks: Mapping[str, Task]) -> str:
    rows = ["| task | channels | prediction |", "|---|---|---|"]
    for task in tasks.values():
        prediction = _PREDICTIONS[task.activation] + (f" ({task.unit})" if task.unit else "")
        rows.append(f"| `{task.name}` | {task.channels} | {prediction} |")
    lists = [
        f"<details><summary>Classes of <code>{task.name}</code></summary>\n\n"
        f"{html.escape(', '.join(f'{number} {name}' for number, name in enumerate(task.classes)))}\n\n</details>"
        for task in tasks.values()
        if task.classes
    ]
    return "\n\n".join(["\n".join(rows), *lists])


def _results(card: ModelCard, config: ModelConfig) -> str:
    if not card.results:
        return "*No results are stated.*"
    # Metrics bring a good part of the package with them, and most cards are read, not written.
    from demt.metrics.report import result_rows

    rows = ["| task | metric | value | unit | better |", "|---|---|---|---|---|"]
    rows += [f"| {' | '.join(row)} |" for row in result_rows(card.results, config.tasks)]
    return f"Protocol: {card.protocol}\n\n" + "\n".join(rows)
