"""`demt data`: check, convert, fetch and unpack data sets."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from demt.cli.common import console, errors, friendly_errors
from demt.cli.hub_data import Columns, HubSubset, Place, Revision
from demt.inference.processes import cores

if TYPE_CHECKING:
    from demt.data.doctor.report import Report
    from demt.data.folder import MultiTaskFolder

T = TypeVar("T")

data = typer.Typer(no_args_is_help=True, help="Check, convert, fetch and unpack data sets.")


@data.command()
def check(
    path: Annotated[
        Path,
        typer.Argument(help="Folder of the data set, which is only read; Parquet files; with --dataset hub, ORG/NAME."),
    ],
    tasks: Annotated[
        str | None,
        typer.Option(help="Tasks to check, such as semseg,depth; for own data with their classes: semseg=5,depth."),
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Open only N samples of each split, evenly spread.")
    ] = None,
    subset: Annotated[
        bool, typer.Option("--subset", help="The folder is only part of a published data set: do not count samples.")
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a picture of some samples with all their labels.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; by default one per core.")] = None,
    dataset: Annotated[str | None, typer.Option(help="nyud, pascal, cityscapes or hub; by default detected.")] = None,
    layout: Annotated[str, typer.Option(help="Layout of a published data set; by default detected.")] = "auto",
    split: Annotated[
        list[str] | None, typer.Option(help="Only this split; may be repeated; of Parquet also 'train[:90%]'.")
    ] = None,
    encodings: Annotated[
        str | None, typer.Option(help="For own data: what pictures mean, such as depth=millimetres,edge=grey.")
    ] = None,
    in_chans: Annotated[
        int | None,
        typer.Option(min=1, help="For own data: channels of the images; by default 3, and those of arrays."),
    ] = None,
    index: Annotated[str | None, typer.Option(help="For own data: an index, .csv or .jsonl.")] = None,
    ids: Annotated[str | None, typer.Option(help="For own data: a list of samples, one per line.")] = None,
    images: Annotated[str, typer.Option(help="For own data: the folder of the images.")] = "images",
    columns: Columns = None,
    hub_subset: HubSubset = None,
    revision: Revision = None,
) -> None:
    """Check that a data set is complete and that its files hold what they should. Exits with 1 if not."""
    with friendly_errors():
        from demt.cli.report import show_report
        from demt.data.doctor.check import check_folder, check_hub, check_published

        if sheet is not None and (not sheet.absolute().parent.is_dir() or sheet.suffix.lower() != ".png"):
            raise ValueError(f"Expected --sheet as a .png file in a folder that exists, got {str(sheet)!r}")
        how: dict[str, Any] = {
            "sample": sample,
            "workers": cores() if workers is None else workers,
            "show": lambda findings, count: _track(findings, "Samples", count),
        }
        place = Place.of(str(path), dataset or "", columns, hub_subset, revision)
        own = None
        if place is None:
            own = _own_data(
                path, tasks, encodings, index, ids, images, in_chans, published=dataset is not None or layout != "auto"
            )
        if place is not None:
            place.refuse(index=index, ids=ids, layout=None if layout == "auto" else layout)
            if tasks is None:
                raise ValueError(f"Say which tasks the columns hold: --tasks semseg=5,depth; {place.hint()}")
            report = check_hub(place.open(tasks, split, encodings, in_chans), **how)
        elif own is not None:
            report = check_folder(own, **how)
        else:
            names = None if tasks is None else tasks.split(",")
            report = check_published(
                path, dataset=dataset, layout=layout, tasks=names, splits=split, subset=subset, **how
            )
        if as_json:
            typer.echo(json.dumps(report.to_dict(), indent=2))
        else:
            show_report(report, console)
        if sheet is not None:
            _write_sheet(report, sheet)
    raise typer.Exit(bool(report.problems))


@data.command()
def convert(
    path: Annotated[Path, typer.Argument(help="Folder of the data set; it is only read.")],
    target: Annotated[Path, typer.Argument(help="Folder to make.")],
    layout: Annotated[str, typer.Option(help="Layout to write, such as atrc, vandenhende, astmt, libmtl.")],
    tasks: Annotated[str | None, typer.Option(help="Tasks to convert, such as semseg,depth; by default all.")] = None,
    dataset: Annotated[str | None, typer.Option(help="nyud, pascal or cityscapes; by default detected.")] = None,
    source: Annotated[str, typer.Option(help="Layout of the folder; by default detected.")] = "auto",
) -> None:
    """Write a published data set in another of its layouts, and report what was lost."""
    with friendly_errors():
        from demt.cli.report import show_changes
        from demt.data.doctor.convert import convert as write

        changes = write(
            path,
            target,
            layout,
            dataset=dataset,
            source=source,
            tasks=None if tasks is None else tasks.split(","),
            show=lambda samples, count: _track(samples, "Samples", count),
        )
        show_changes(changes, console)
        console.print(f"Written to {target}", soft_wrap=True, highlight=False, markup=False)


@data.command()
def unpack(
    archive: Annotated[Path, typer.Argument(help="A .zip, .tar or .tar.gz file.")],
    target: Annotated[Path, typer.Argument(help="Folder to make.")],
    max_gib: Annotated[float, typer.Option(min=0, help="Refuse archives that unpack to more.")] = 500,
    max_files: Annotated[int, typer.Option(min=1, help="Refuse archives of more files.")] = 1_000_000,
    max_ratio: Annotated[
        float, typer.Option(min=1, help="Refuse archives that unpack to more than this many times their size.")
    ] = 200,
) -> None:
    """Unpack an archive into a new folder, completely or not at all, and write nowhere else."""
    with friendly_errors():
        from demt.data.doctor.archive import Limits
        from demt.data.doctor.archive import unpack as write

        with errors.status("Unpacking …"):
            count = write(archive, target, limits=Limits(files=max_files, size=int(max_gib * 2**30), ratio=max_ratio))
        inside = [path for path in target.iterdir() if not path.name.startswith((".", "__MACOSX"))]
        folder = inside[0] if len(inside) == 1 and inside[0].is_dir() else target
        console.print(
            f"{count} files in {target}; next: demt data check {folder}", soft_wrap=True, highlight=False, markup=False
        )


@data.command()
def fetch(
    dataset: Annotated[str, typer.Argument(help="nyud or pascal.")],
    target: Annotated[Path, typer.Argument(help="Folder to make.")],
    link: Annotated[
        str | None, typer.Option(help="Which archive: atrc (the default), invpt, mti_net; for nyud also astmt.")
    ] = None,
    links: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON with other links: docs/data.md shows one.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Where the archive is, in place of the link's address.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Bytes that the archive must have.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Checksum that the archive must have.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="The archive, if you downloaded it in a browser: nothing is downloaded.")
    ] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Where to download it, instead of demt/archives beside Hugging Face's caches.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the archive after unpacking.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Download it again, even if it is there.")] = False,
    sample: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Check only N samples of each split, evenly spread.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes of the check; by default one per core.")] = None,
) -> None:
    """Download NYUD-v2 or PASCAL-Context from its authors, unpack it, and check it like `demt data check`.

    The data belongs to its authors, who state its terms; we host none of it. After an interruption run the same
    command again to resume. An archive whose size or checksum is not as expected is refused as a whole.
    """
    with friendly_errors():
        from demt.cli.fetch import progress_bar
        from demt.cli.report import show_report
        from demt.data.doctor.check import check_published
        from demt.released.archives import find_archive, replaced
        from demt.released.fetch_data import fetch_data

        archive = replaced(find_archive(dataset, link, links), url=url, size=size, sha256=sha256)
        about = f"{archive.file} ({archive.used_by}): {file or archive.url}"
        errors.print(about, soft_wrap=True, highlight=False, markup=False)
        try:
            with progress_bar() as progress:
                folder = fetch_data(
                    archive, target, file=file, cache_dir=cache_dir, keep=keep, force=force, progress=progress
                )
        except KeyboardInterrupt:
            errors.print("Interrupted; run the same command again to resume.")
            raise typer.Exit(130) from None
        errors.print(f"Unpacked to {folder}", soft_wrap=True, highlight=False, markup=False)
        report = check_published(
            folder,
            sample=sample,
            workers=cores() if workers is None else workers,
            show=lambda findings, count: _track(findings, "Samples", count),
        )
        show_report(report, console)
    raise typer.Exit(bool(report.problems))


def _own_data(
    path: Path,
    tasks: str | None,
    encodings: str | None,
    index: str | None,
    ids: str | None,
    images: str,
    in_chans: int | None,
    *,
    published: bool,
) -> MultiTaskFolder | None:
    """Own data, if the options say or the folder shows that it is; None for a published data set."""
    from demt.data.doctor.recognise import find_layouts, propose
    from demt.data.folder import MultiTaskFolder

    declared = "=" in (tasks or "") or any(option is not None for option in (encodings, index, ids))
    if not path.is_dir() or published or (not declared and find_layouts(path)):
        return None
    if tasks is None or not (declared or (path / images).is_dir()):
        found = propose(path, images)
        if found is None and not declared:
            return None
        hint = ": --tasks semseg=5"
        if found is not None:
            hint = "".join(f"; {question}" for question in found.questions)
            hint += f"; perhaps: {found.command(path)}; in a recipe: {found.recipe(path)}"
        raise ValueError(
            f"{str(path)!r} has no layout of a published data set. For own data say which tasks there are and what "
            f"their files mean{hint}"
        )
    return MultiTaskFolder(
        path, tasks or "", encodings=encodings, index=index, ids=ids, images=images, in_chans=in_chans
    )


def _write_sheet(report: Report, file: Path) -> None:
    from demt.cli.report import heading
    from demt.data.doctor.sheet import contact_sheet

    if not report.datasets:
        raise ValueError("No split can be opened, so there is nothing to show on a sheet")
    buffer = io.BytesIO()
    contact_sheet(report.datasets, heading(report)).save(buffer, "PNG")
    file.write_bytes(buffer.getvalue())
    errors.print(f"Samples on {file}", soft_wrap=True, highlight=False, markup=False)


def _track(items: Iterable[T], what: str, count: int) -> Iterable[T]:
    from rich.progress import track

    return track(items, what, total=count, console=errors, disable=not errors.is_terminal)
