"""What the authors published: the results of their tables, and where their checkpoint files are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from demt.registry import full_name

#: What a published number measures, and whether it is better higher or lower.
MEASURES: dict[str, tuple[str, str]] = {
    "semseg": ("mIoU", "%"),
    "human_parts": ("mIoU", "%"),
    "sal": ("maxF", "%"),
    "normals": ("mean error", "degrees"),
    "depth": ("RMSE", "m"),
    "edge": ("odsF", "%"),
}
#: The protocol of `demt.metrics` that all these numbers follow.
PROTOCOL = "atrc"
_TASKS = {
    "NYUD-v2": ("semseg", "depth", "normals", "edge"),
    "PASCAL-Context": ("semseg", "human_parts", "sal", "normals", "edge"),
}
_FILE_PAGE = "https://drive.google.com/open?id={}"
_FOLDER_PAGE = "https://drive.google.com/drive/folders/{}"
_TUNED_SALIENCY = (
    "Their saliency of 64 is presumably not maxF: all their other models have 83, and papers on tuning report mean IoU."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A row of the authors' tables.

    Args:
        label: What the authors call it.
        names: Names of demt's models that the row may stand for, the label's first: the authors give one row, with one
            file, for DeMTG and DeGMix.
        results: Published values by task, in the units of `MEASURES`.
        parameters: Published number of parameters, in millions.
        gflops: Published cost of one image, in 10⁹ multiply-adds.
        file_id: The checkpoint on Google Drive.
        folder_id: A folder on Google Drive, where they link one in place of a file.
        note: What else there is to know about the row.
    """

    label: str
    names: tuple[str, ...]
    results: Mapping[str, float]
    parameters: float | None = None
    gflops: float | None = None
    file_id: str | None = None
    folder_id: str | None = None
    note: str = ""

    @property
    def page(self) -> str | None:
        """The file's or folder's page for a browser."""
        if self.folder_id:
            return _FOLDER_PAGE.format(self.folder_id)
        return _FILE_PAGE.format(self.file_id) if self.file_id else None


def published(name: str) -> Published | None:
    """The row for a model's name, with or without tag; None if the authors published nothing for it."""
    return _BY_NAME.get(full_name(name))


def names_of_file(file_id: str) -> list[str]:
    """Every model that the authors' tables say a file holds, or may: two rows have the same link, and they do not tell
    DeMTG from DeGMix.
    """
    rows = [row.names for row in ROWS if row.file_id == file_id]
    twins = [names[0].replace("demtg_", "degmix_", 1) for names in rows if names[0].startswith("demtg_")]
    return list(dict.fromkeys([*(name for names in rows for name in names), *twins]))


def _row(
    label: str,
    name: str,
    values: tuple[float, ...] = (),
    parameters: float | None = None,
    gflops: float | None = None,
    file_id: str | None = None,
    folder_id: str | None = None,
    note: str = "",
) -> Published:
    """A row; results in the order of the tasks of the data set, which the label ends with."""
    both = name.startswith("degmix_")
    return Published(
        label=label,
        names=(name, name.replace("degmix_", "demtg_", 1)) if both else (name,),
        results=dict(zip(_TASKS[label.rsplit(", ", 1)[1]], values)),
        parameters=parameters,
        gflops=gflops,
        file_id=file_id,
        folder_id=folder_id,
        note=note,
    )


# fmt: off
ROWS: tuple[Published, ...] = (
    _row("DeMT, HRNet-18, NYUD-v2", "demt_hrnet_w18.nyud", (39.18, 0.5922, 20.21, 76.4), 4.76, 22.07),
    _row("DeMT, Swin-T, NYUD-v2", "demt_swin_tiny.nyud", (46.36, 0.5871, 20.60, 76.9), 32.07, 100.70,
         "1IfQRVyvaVkEfybzh4QAz9Vq_0U38Hngq"),
    _row("DeMT, Swin-T, depth 2, NYUD-v2", "demt_swin_tiny_depth2.nyud", (47.45, 0.5563, 19.90, 77.0), 36.6, None,
         "1Rz4R9vu8bGtskpJDlVfgexYZoHtz8j8k"),
    _row("DeMT, Swin-S, NYUD-v2", "demt_swin_small.nyud", (51.50, 0.5474, 20.02, 78.1), 53.03, 121.05,
         folder_id="1jINF9WOyILqrPcsprWbM5VSCEWozsc1c"),
    _row("DeMT, Swin-B, NYUD-v2", "demt_swin_base.nyud", (54.34, 0.5209, 19.21, 78.5), 90.9, 153.65),
    _row("DeMT, Swin-L, NYUD-v2", "demt_swin_large.nyud", (56.94, 0.5007, 19.14, 78.8), 201.64),
    _row("DeGMix, Swin-T, NYUD-v2", "degmix_swin_tiny.nyud", (47.20, 0.5660, 20.15, 77.2), 33.2, 125.49,
         "14qIRWaGzfTlkyQRb97xOOsWLmQYATGfI"),
    # DeMTG's page links another file than DeGMix's, the one that DeGMix's page gives for PASCAL-Context.
    _row("DeMTG, Swin-T, NYUD-v2", "demtg_swin_tiny.nyud", (47.20, 0.5660, 20.15, 77.2), 33.2, 125.49,
         "1Xk-5cmpQrikJyv-fVlfF2YT541rRjyOU"),
    _row("DeGMix, Swin-S, NYUD-v2", "degmix_swin_small.nyud", (52.23, 0.5599, 20.05, 78.4), 54.52, 145.84,
         "1GNZONi4Y2qm852j5S4t4YdIviu5uRFhg"),
    _row("DeGMix, Swin-B, NYUD-v2", "degmix_swin_base.nyud", (54.45, 0.5228, 19.33, 78.6), 94.4, None,
         "1HKfg4sVnP_FArGN8YGzsumN92vHhS72o"),
    _row("DeGMix, Swin-L, NYUD-v2", "degmix_swin_large.nyud", (57.55, 0.5037, 19.21, 79.0), 202.92, 321.22,
         "11N8WCL6-nbaE2PRc2EaTDw0oo8a6A6xE"),
    _row("DeGMix, ViT-B, NYUD-v2", "degmix_vit_base.nyud", file_id="18zc2n6d8C0tY5nqtxSU92YMEZTRJNBEI"),
    _row("DeGMix-Tuning, Swin-T, NYUD-v2", "degmix_swin_tiny.nyud_tuning", (44.90, 0.615),
         file_id="1wSk22xImq5gYudJEN9Im-Xcg52vEgIZT"),
    _row("DeMT, HRNet-18, PASCAL-Context", "demt_hrnet_w18.pascal", (59.23, 57.93, 83.93, 14.02, 69.80)),
    _row("DeMT, Swin-T, PASCAL-Context", "demt_swin_tiny.pascal", (69.71, 57.18, 82.63, 14.56, 71.20)),
    _row("DeMT, Swin-S, PASCAL-Context", "demt_swin_small.pascal", (72.01, 58.96, 83.20, 14.57, 72.10)),
    _row("DeMT, Swin-B, PASCAL-Context", "demt_swin_base.pascal", (75.33, 63.11, 83.42, 14.54, 73.20)),
    _row("DeGMix, Swin-T, PASCAL-Context", "degmix_swin_tiny.pascal", (69.44, 58.02, 83.31, 14.31, 71.2),
         file_id="1Xk-5cmpQrikJyv-fVlfF2YT541rRjyOU"),
    _row("DeGMix, Swin-S, PASCAL-Context", "degmix_swin_small.pascal", (71.54, 61.49, 83.70, 14.90, 72.2),
         file_id="14k-mv6apb3iqjb9g6MeYh3a7SIUZWwg7"),
    _row("DeGMix, Swin-B, PASCAL-Context", "degmix_swin_base.pascal", (75.37, 64.82, 83.75, 14.22, 73.0),
         file_id="1pIs_uAig_eRqhBvjaDagfMBFB7OlSwzw"),
    # The authors' link is the one of Swin-L on NYUD-v2; the file tells which of the two it is.
    _row("DeGMix, Swin-L, PASCAL-Context", "degmix_swin_large.pascal", (78.54, 67.42, 83.74, 14.17, 74.9),
         file_id="11N8WCL6-nbaE2PRc2EaTDw0oo8a6A6xE"),
    _row("DeGMix-Tuning, Swin-T, PASCAL-Context", "degmix_swin_tiny.pascal_tuning", (67.37, 56.87, 64.12, 15.67),
         file_id="15VCYRw63ZeZsz6zQr1UlbtuDettZNmkv", note=_TUNED_SALIENCY),
    _row("DeGMix-Tuning, Swin-L, PASCAL-Context", "degmix_swin_large.pascal_tuning", (78.14, 64.44, 64.20, 16.3),
         file_id="1Lh8ovYOPchz0gJst7KBh_BjiSN1rqzIR", note=_TUNED_SALIENCY),
)
# fmt: on
# A row of its own goes before one that names a model beside another.
_BY_NAME = {name: row for first in (False, True) for row in ROWS for name in row.names[: 1 if first else None]}
