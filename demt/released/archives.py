"""Where the authors' archives of NYUD-v2 and PASCAL-Context lie: a table, and changes to it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Archive:
    """An archive of a data set.

    Args:
        file: Its name.
        url: Where it is, http(s); links of Google Drive are recognised.
        used_by: Whose code points there.
        size: Its bytes, where known.
        sha256: Its checksum, where known.
    """

    file: str
    url: str
    used_by: str
    size: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        place = urlsplit(self.url if isinstance(self.url, str) else "")
        if place.scheme not in ("http", "https") or not place.hostname:
            raise ValueError(f"Expected `url` of an archive to begin with http:// or https://, got {self.url!r}")
        if Path(self.file).name != self.file or self.file.startswith("."):
            raise ValueError(f"Expected `file` of an archive to be the name of a file, got {self.file!r}")
        if self.size is not None and (isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1):
            raise ValueError(f"Expected `size` of an archive to be a number of bytes, got {self.size!r}")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", str(self.sha256)):
            raise ValueError(f"Expected `sha256` of an archive to be 64 hexadecimal digits, got {self.sha256!r}")

    @property
    def drive_id(self) -> str | None:
        """The file's id on Google Drive, if it lies there."""
        place = urlsplit(self.url)
        if place.hostname not in ("drive.google.com", "docs.google.com", "drive.usercontent.google.com"):
            return None
        found = re.search(r"/file/d/([\w-]+)", place.path)
        ids = [found[1]] if found else parse_qs(place.query).get("id", [])
        return ids[0] if ids else None


_ETH = "https://data.vision.ee.ethz.ch"
_INVPT = "https://hkustconnect-my.sharepoint.com/:u:/g/personal/hyeae_connect_ust_hk"
#: Archives by data set and name of the link; the first of each is the default. None could be tried where this was
#: written. In 2023 users reported ATRC's links as dead, and InvPT's author put up copies. Size and checksum of the
#: NYUD-v2 of MTI-Net are those that others recorded of that link.
ARCHIVES: Mapping[str, Mapping[str, Archive]] = {
    "nyud": {
        "atrc": Archive(file="NYUDv2.tar.gz", url=f"{_ETH}/brdavid/atrc/NYUDv2.tar.gz", used_by="ATRC, DeMT"),
        "invpt": Archive(
            file="NYUDv2.tar.gz",
            url=f"{_INVPT}/EZ-2tWIDYSFKk7SCcHRimskBhgecungms4WFa_L-255GrQ?e=6jAt4c&download=1",
            used_by="InvPT, TaskPrompter, MTMamba: a copy of ATRC's",
        ),
        "mti_net": Archive(
            file="NYUD_MT.tgz",
            url="https://drive.google.com/file/d/14EAEMXmd3zs2hIMY63UhHPSFPDAkiTzw/view",
            used_by="MTI-Net, Vandenhende et al.",
            size=4_215_751_725,
            sha256="33338d895404a9144a2c6892a8b0d6d5c26b02021f945b12e36c431fb369fcb2",
        ),
        "astmt": Archive(file="NYUD_MT.tgz", url=f"{_ETH}/kmaninis/share/MTL/NYUD_MT.tgz", used_by="ASTMT"),
    },
    "pascal": {
        "atrc": Archive(
            file="PASCALContext.tar.gz", url=f"{_ETH}/brdavid/atrc/PASCALContext.tar.gz", used_by="ATRC, DeMT"
        ),
        "invpt": Archive(
            file="PASCALContext.tar.gz",
            url=f"{_INVPT}/ER57KyZdEdxPtgMCai7ioV0BXCmAhYzwFftCwkTiMmuM7w?e=2Ex4ab&download=1",
            used_by="InvPT, TaskPrompter, MTMamba: a copy of ATRC's",
        ),
        "mti_net": Archive(
            file="PASCAL_MT.tgz", url=f"{_ETH}/kmaninis/share/MTL/PASCAL_MT.tgz", used_by="MTI-Net, ASTMT"
        ),
    },
}


def find_archive(dataset: str, link: str | None = None, links: Path | None = None) -> Archive:
    """The archive of a data set.

    Args:
        dataset: ``"nyud"`` or ``"pascal"``, or what `links` adds.
        link: Which of its links; by default the first.
        links: A JSON file of further ones, and of changes: ``{"nyud": {"atrc": {"size": 123}}}``.

    Raises:
        ValueError: for unknown names, or a file that is no such table.
    """
    table = {name: dict(rows) for name, rows in ARCHIVES.items()}
    for name, rows in ({} if links is None else _read_links(links)).items():
        known = table.get(name, {})
        changed = {row: _changed(known.get(row), fields, f"{name}.{row}") for row, fields in rows.items()}
        # What a table of one's own names first is the default.
        table[name] = {**changed, **{row: archive for row, archive in known.items() if row not in changed}}
    if dataset not in table:
        raise ValueError(f"Expected a data set of {list(table)}, got {dataset!r}; Cityscapes asks for registration")
    found = table[dataset]
    if link is not None and link not in found:
        raise ValueError(f"Expected a link of {list(found)} for {dataset}, got {link!r}")
    return found[link or next(iter(found))]


def replaced(archive: Archive, **fields: Any) -> Archive:
    """The archive with these fields where they are not None.

    Raises:
        ValueError: for values that no archive has.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    return _changed(archive, given, archive.file) if given else archive


def _changed(archive: Archive | None, fields: Mapping[str, Any], where: str) -> Archive:
    known = {field.name for field in dataclasses.fields(Archive)}
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"Unknown {unknown} of {where}; known are {sorted(known)}")
    if archive is not None:
        # Another address has another file, whose size and checksum are unknown.
        gone = {"size": None, "sha256": None, "used_by": "another address"} if "url" in fields else {}
        return dataclasses.replace(archive, **{**gone, **fields})
    if "url" not in fields:
        raise ValueError(f"Expected a `url` of {where}, got {sorted(fields)}")
    name = Path(urlsplit(str(fields["url"])).path).name or "archive"
    return Archive(**{"file": name, "used_by": "your table", **fields})


def _read_links(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a table of links: {error}") from error
    rows = table.values() if isinstance(table, dict) else [None]
    if not all(isinstance(row, dict) and row and all(isinstance(each, dict) for each in row.values()) for row in rows):
        raise ValueError(
            f'{str(path)!r} is not a table of links: expected {{"nyud": {{"atrc": {{"url": "https://…"}}}}}}'
        )
    return table  # type: ignore[no-any-return]
