"""The directive ``zoo``: tables of all models, made from the registry and the authors' tables."""

from sphinx.util.docutils import SphinxDirective

from demt.factory import weights_of
from demt.inference.cost import count_multiply_adds, count_parameters
from demt.models.variants import MODELS, SCORES
from demt.registry import split_name
from demt.released.tables import MEASURES, published
from demt.tasks import DATASETS

NONE = "–"  # noqa: RUF001
UNITS = {"degrees": "°"}


def architectures(costs=True):
    """Rows of the table of architectures: what each is made of, what it costs, and which data sets have weights."""
    tags = {}
    for name in MODELS:
        arch, tag = split_name(name)
        tags.setdefault(arch, []).append(tag)
    for arch, found in tags.items():
        model = MODELS[f"{arch}.{found[0]}"]
        _, height, width = model.pretrained_cfg.input_size
        places = [place for tag in found if (place := _weights(f"{arch}.{tag}", tag))]
        yield [
            f"`{arch}`",
            f"`{model.config.backbone}`",
            f"{count_parameters(model.config) / 1e6:.2f}",
            f"{count_multiply_adds(model.config, (height, width)) / 1e9:.1f}" if costs else "",
            f"{height} x {width}",
            ", ".join(places) or NONE,
        ]


def tasks():
    """Rows of the table of tags: what a model predicts."""
    for dataset, found in DATASETS.items():
        yield [f"`{dataset}`", ", ".join(f"`{name}` ({task.channels})" for name, task in found.items())]


def results(dataset, own=False):
    """A table's heading and its rows: the models that have published, or own, results on a data set."""
    measured = list(DATASETS[dataset])
    rows = []
    for name in MODELS:
        row, (_, tag) = published(name), split_name(name)
        values = SCORES.get(name) if own else (row.results if row else None)
        if tag.partition("_")[0] == dataset and values:
            costs = [] if own else [_number(row.parameters), _number(row.gflops)]
            rows.append(
                [f"`{name}`", *(_number(values.get(task)) for task in measured), *costs, _weights(name) or NONE]
            )
    return ["model", *map(_heading, measured), *([] if own else ["M params", "GMACs"]), "weights"], rows


def _heading(task):
    measure, unit = MEASURES[task]
    return f"{task} {measure} {UNITS.get(unit, unit)} {'↓' if task in ('normals', 'depth') else '↑'}"


def _number(value):
    return NONE if value is None else str(value)


def _weights(name, label=None):
    """Where a model's weights are, as a link; empty where there are none."""
    row, weights = published(name), weights_of(name)
    if weights is not None and weights.place == "file":
        return f"[{label or 'package'}](/weights.md)"
    if weights is not None and weights.place == "hub":
        return f"[{label or 'Hub'}](https://huggingface.co/{weights.address.partition('@')[0]})"
    return f"[{label or 'authors'}]({row.page})" if row and row.page else ""


def table(head, rows, numbers=()):
    """A Markdown table whose columns `numbers` are set right."""
    rule = ["---:" if column in numbers else "---" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


class Zoo(SphinxDirective):
    """``{zoo} architectures``, ``tasks``, ``published DATASET`` or ``own DATASET``."""

    required_arguments = 1
    optional_arguments = 1

    def run(self):
        what, dataset = [*self.arguments, None][:2]
        if what == "architectures":
            head = ["model", "backbone in timm", "M params", "GMACs", "of an image of", "weights"]
            text = table(head, architectures(self.config.zoo_costs), (2, 3, 4))
        elif what == "tasks":
            text = table(["tag", "tasks (channels)"], tasks())
        elif what in ("published", "own"):
            head, rows = results(dataset, own=what == "own")
            text = table(head, rows, range(1, len(head) - 1))
        else:
            raise self.error(f"Expected architectures, tasks, published or own, got {what!r}")
        return self.parse_text_to_nodes(text)


def setup(app):
    # Multiply-adds of all models take a minute to count.
    app.add_config_value("zoo_costs", True, "env", bool)
    app.add_directive("zoo", Zoo)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
