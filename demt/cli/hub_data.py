"""Options of commands that take Parquet files and data sets of the Hub in place of a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from demt.data.hub import HubDataset

Columns: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Of Parquet and the Hub: columns of other names, such as image=rgb,semseg=segmentation."),
]
HubSubset: TypeAlias = Annotated[str | None, typer.Option(help="Of the Hub: which of a data set's configurations.")]
Revision: TypeAlias = Annotated[str | None, typer.Option(help="Of the Hub: branch, tag or commit.")]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a data set of columns is, as the options say."""

    source: str
    columns: Mapping[str, str]
    subset: str | None
    revision: str | None

    @classmethod
    def of(
        cls, source: str, dataset: str, columns: str | None, subset: str | None, revision: str | None
    ) -> Place | None:
        """The place that the options mean; None where they mean another kind of data set.

        Raises:
            ValueError: for `columns` of another form, or options of the Hub for another kind of data set.
        """
        from demt.data.declare import parse_pairs
        from demt.data.hub import is_parquet

        options = {"--columns": columns, "--hub-subset": subset, "--revision": revision}
        given = [name for name, value in options.items() if value is not None]
        if dataset not in ("", "hub"):
            if given:
                raise ValueError(f"{given[0]} is for Parquet files and the Hub, got --dataset {dataset}")
            return None
        if not (dataset or given or is_parquet(source)):
            return None
        pairs = parse_pairs("--columns", columns) if columns else {}
        if bare := [name for name, column in pairs.items() if column is None]:
            raise ValueError(f"Expected --columns as name=column,name=column, got {bare[0]!r} alone")
        return cls(source, {name: column for name, column in pairs.items() if column}, subset, revision)

    def refuse(self, **options: str | None) -> None:
        """Raise `ValueError` for options that are for folders."""
        if given := [name for name, value in options.items() if value is not None]:
            raise ValueError(f"--{given[0].replace('_', '-')} is for folders, but {self.source!r} has columns")

    def names(self, split: str | None = None) -> list[str]:
        """Names of the columns. Raises `DataError`."""
        from demt.data.hub import columns_of

        return columns_of(self.source, split or self.splits()[0], self.subset, self.revision)

    def splits(self) -> list[str]:
        """Names of the splits. Raises `DataError`."""
        from demt.data.hub import splits_of

        return splits_of(self.source, self.subset, self.revision)

    def hint(self) -> str:
        """The columns that there are, in words."""
        return f"columns are {', '.join(self.names())} (--columns image=NAME,semseg=NAME)"

    def tasks(self, names: Iterable[str], split: str) -> list[str]:
        """Those of some tasks that have a column, or are said to have one. Raises `DataError`."""
        there = {*self.names(split), *self.columns}
        return [name for name in names if name in there]

    def open(
        self, tasks: Any, splits: Sequence[str] | None, encodings: str | None, in_chans: int | None
    ) -> dict[str, HubDataset]:
        """The data set of each split, by default of all. Raises `DataError` or `ValueError`."""
        from demt.data.hub import HubDataset

        return {
            split: HubDataset(
                self.source,
                tasks,
                split=split,
                columns=self.columns,
                encodings=encodings,
                in_chans=in_chans,
                subset=self.subset,
                revision=self.revision,
            )
            for split in splits or self.splits()
        }
