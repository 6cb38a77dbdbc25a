"""The directive ``zoo``: tables of all models, made from the registry and the authors' tables."""

from sphinx.util.docutils import SphinxDirective

from demt.factory import weights_of
from demt.inference.cost import count_multiply_adds, count_parameters
from demt.models.variants import SCORES
from demt.registry import get_config, list_tags, split_name
from demt.released.tables import MEASURES, published
from demt.tasks import DATASETS

NONE = "–"  # noqa: RUF001
DIRECTION = {"normals": "↓", "depth": "↓"}


def names():
    """Every built-in model by its full name."""
    return [f"{arch}.{tag}" for arch, tags in list_tags().items() for tag in tags]


def architectures(costs=True):
    """Rows of the table of architectures: what each is made of, what it costs, and which data sets have weights."""
    for arch, tags in list_tags().items():
        config, cfg = get_config(f"{arch}.{tags[0]}")
        _, height, width = cfg.input_size
        multiply_adds = f"{count_multiply_adds(config, (height, width)) / 1e9:.1f}" if costs else ""
        yield [
            f"`{arch}`",
            f"`{config.backbone}`",
            f"{count_parameters(config) / 1e6:.2f}",
            multiply_adds,
            f"{height} x {width}",
            ", ".join(filter(None, (_weights(f"{arch}.{tag}", tag) for tag in tags))) or NONE,
        ]


def tasks():
    """Rows of the table of tags: what a model predicts."""
    for dataset, found in DATASETS.items():
        yield [f"`{dataset}`", ", ".join(f"`{name}` ({task.channels})" for name, task in found.items())]


def results(dataset, own=False):
    """A table's heading and its rows: the models that have published, or own, results on a data set."""
    measured = DATASETS[dataset]
    head = [
        f"{name}: {measure}, {unit} {DIRECTION.get(name, '↑')}"
        for name in measured
        for measure, unit in [MEASURES[name]]
    ]
    rows = []
    for name in names():
        row, (_, tag) = published(name), split_name(name)
        values = SCORES.get(name) if own else (row.results if row else None)
        if tag.partition("_")[0] != dataset or not values:
            continue
        costs = [] if own else [_number(row.parameters), _number(row.gflops)]
        cells = [_number(values.get(task)) for task in measured]
        rows.append([f"`{name}`", *cells, *costs, _weights(name) or NONE])
    return ["model", *head, *([] if own else ["M parameters", "GMACs"]), "weights"], rows


def _number(value):
    return NONE if value is None else f"{value:g}"


def _weights(name, label=None):
    """Where a model's weights are, as a link; empty where there are none."""
    row, weights = published(name), weights_of(name)
    if weights is not None and weights.place == "file":
        return f"[{label or 'in the package'}](/weights.md)"
    if weights is not None and weights.place == "hub":
        return f"[{label or 'Hugging Face Hub'}](https://huggingface.co/{weights.address.partition('@')[0]})"
    return f"[{label or 'from the authors'}]({row.page})" if row and row.page else ""


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
            head = ["model", "backbone in timm", "M parameters", "GMACs", "of one image of", "weights"]
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
