"""`demt train` and `demt eval`."""

from __future__ import annotations

import dataclasses
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demt.cli.common import AsJson, console, device_of, errors, friendly_errors, parse_size, print_json
from demt.cli.hub_data import Columns, HubSubset, Place, Revision
from demt.cli.load import load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from demt.tasks import Task
    from demt.train import DataPart


def train(
    recipe: Annotated[
        str,
        typer.Argument(help="nyud, pascal, cityscapes, nyud_tuning, finetune, rooms, rooms_lite, …, or a YAML file."),
    ],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Changes, e.g. optim.lr=1e-4 out=runs/a.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the newest checkpoint in `out`.")] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Print the recipe, with comments on every setting, and stop.")
    ] = False,
) -> None:
    """Train a model according to a recipe. On several GPUs: accelerate launch -m demt train RECIPE …"""
    with friendly_errors():
        from demt.train import load_recipe
        from demt.train import train as run
        from demt.train.reading import recipe_yaml

        chosen = load_recipe(recipe, changes or [])
        if show:
            console.print(recipe_yaml(chosen, comments=True), end="", highlight=False, soft_wrap=True, markup=False)
            return
        try:
            trained = run(chosen, resume=resume, console=console)
        except KeyboardInterrupt:
            errors.print("Interrupted; add --resume to resume from the newest checkpoint.")
            raise typer.Exit(130) from None
        from accelerate import PartialState

        if PartialState().is_main_process:
            console.print(f'Load with demt.create_model("local-dir:{trained.folder / "best"}")', soft_wrap=True)


def evaluate(
    model: Annotated[str, typer.Argument(help="A model's name, hf-hub:ORG/NAME, or a folder that training wrote.")],
    data: Annotated[
        str,
        typer.Argument(
            help="Folder of NYUD-v2, PASCAL-Context, Cityscapes or own data; Parquet files; or rooms. With --dataset "
            "hub, ORG/NAME on the Hub."
        ),
    ],
    protocol: Annotated[str, typer.Option(help="atrc, invpt or mtdp; Cityscapes: taskprompter, mtmamba, mtan.")] = "",
    split: Annotated[
        str,
        typer.Option(
            help="train or val (the default) of a published data set; for Parquet and the Hub a split such as test or "
            "'train[90%:]', by default validation, of one file all of it.",
            show_default=False,
        ),
    ] = "",
    dataset: Annotated[str, typer.Option(help="nyud, pascal, cityscapes, folder or hub; by default detected.")] = "",
    encodings: Annotated[
        str | None, typer.Option(help="For own data: what pictures mean, such as depth=millimetres,edge=grey.")
    ] = None,
    ids: Annotated[str | None, typer.Option(help="For own data: a file with the names to use.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size of rooms; for other data, the size to pad to.")
    ] = None,
    max_size: Annotated[
        int | None, typer.Option(min=1, help="Longest side the network runs at; by default as in `demt predict`.")
    ] = None,
    length: Annotated[int, typer.Option(min=1, help="Number of rooms.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that run at once, all of the same size.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read data.")] = 0,
    precision: Annotated[str, typer.Option(help="fp32 (or no), bf16, or fp16 on a GPU.")] = "fp32",
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda …; auto is a GPU if there is one.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
    columns: Columns = None,
    hub_subset: HubSubset = None,
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on a data set under a protocol. On several GPUs: accelerate launch -m demt eval …"""
    with friendly_errors():
        from demt.config import each_channel
        from demt.data.published import READERS
        from demt.files import write_whole
        from demt.inference.forward import check_precision
        from demt.train import evaluate as run
        from demt.train import open_dataset
        from demt.train.evaluation import make_accelerator
        from demt.train.run import make_metrics

        sides = None if size is None else parse_size("--size", size)
        mixed = "no" if precision == "fp32" else precision
        accelerator = make_accelerator(None if device == "auto" else device_of(device), mixed_precision=mixed)
        check_precision(accelerator.device, "fp32" if mixed == "no" else mixed)
        network = load_model(model)
        place = Place.of(data, dataset, columns, hub_subset, revision)
        if place is None:
            split = split or "val"
            part = _data_part(data, dataset, network.tasks, encodings or {})
        else:
            place.refuse(ids=ids)
            split = split or ("train" if data.endswith(".parquet") else "validation")
            part = _hub_part(place, split, network.tasks, encodings or {})
        if max_size is not None and part.dataset in READERS:
            raise ValueError(f"--max-size is for own data and rooms: the protocol settles the scale of {part.dataset}")
        part = dataclasses.replace(part, protocol=protocol or None, val_ids=ids, size=sides, val_length=length)
        opened = open_dataset(
            part, "val" if place else split, each_channel(network.pretrained_cfg, network.config.in_chans)
        )
        if wrong := [name for name, task in opened.tasks.items() if network.tasks[name].channels != task.channels]:
            raise ValueError(f"The model and the data have different channels for the tasks {wrong}")
        metrics = make_metrics(opened.tasks, part.dataset, part.protocol)
        with _bar(len(opened), accelerator.is_main_process) as advance:
            found = run(
                network,
                opened,
                metrics=metrics,
                own_size=part.dataset in READERS,
                max_size=max_size,
                batch_size=batch_size,
                workers=workers,
                accelerator=accelerator,
                advance=advance,
            )
        if not accelerator.is_main_process:
            return
        title = None if part.dataset in READERS else f"{data}, metrics of protocol {metrics.protocol.name}"
        record = {"model": model, "data": data, "split": split, "protocol": metrics.protocol.name, "results": found}
        if as_json:
            print_json(record)
        else:
            metrics.print_table(console, title=title)
        if out is not None:
            write_whole(out, lambda file: Path(file).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8"))


def _data_part(data: str, dataset: str, tasks: dict[str, Task], encodings: Mapping[str, str] | str) -> DataPart:
    """The data set that `data` means, with those of the model's tasks that it has."""
    from demt.tasks import DATASETS
    from demt.train import recipe_from
    from demt.train.data import guess_dataset

    if data == "rooms":
        dataset = "rooms"
    elif not Path(data).is_dir():
        raise FileNotFoundError(
            f"No folder {data!r}; DATA is a folder of images and labels, or of Parquet files, or rooms; for a data set "
            "of the Hub add --dataset hub"
        )
    kind = dataset or guess_dataset(Path(data))
    here = DATASETS[kind] if kind in DATASETS else {name for name in tasks if (Path(data) / name).is_dir()}
    common = {name: task for name, task in tasks.items() if name in here}
    if not common:
        raise ValueError(f"{data!r} has no labels for any of the model's tasks {list(tasks)}")
    values = {"dataset": kind, "root": data, "encodings": encodings, "augment": False}
    part = recipe_from({"data": values}).data
    return dataclasses.replace(part, tasks=common if kind == "folder" else list(common))


def _hub_part(place: Place, split: str, tasks: dict[str, Task], encodings: Mapping[str, str] | str) -> DataPart:
    """The columns that a place means, with those of the model's tasks that it has."""
    from demt.train import recipe_from

    here = place.tasks(tasks, split)
    if not here:
        raise ValueError(f"{place.source!r} has none of the model's tasks {list(tasks)}; {place.hint()}")
    values = {
        "dataset": "hub",
        "root": place.source,
        "columns": place.columns,
        "subset": place.subset,
        "revision": place.revision,
        "val_split": split,
        "encodings": encodings,
        "augment": False,
    }
    return dataclasses.replace(recipe_from({"data": values}).data, tasks={name: tasks[name] for name in here})


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    from rich.progress import Progress

    with Progress(console=errors, disable=not (shown and errors.is_terminal), transient=True) as bar:
        task = bar.add_task("Evaluating", total=total)
        yield lambda images: bar.advance(task, images)
