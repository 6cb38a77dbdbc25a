"""Files of `torch.save`: what they hold, and tensors of them, checked before memory is spent."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from demt.files.pickles import MAX_BYTES, StoredTensor, read_pickle

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_MAX_ENTRIES = 100_000
#: What files before torch 1.6 begin with.
_MAGIC = 0x1950A86A20F9469CFC6C
# Bytes from the start of the file, and their number.
_Place = tuple[int, int]


class TorchFile:
    """A file of `torch.save`, of any version of torch.

    Args:
        path: The file.

    Attributes:
        content: What was saved, with a `StoredTensor` in place of each tensor; see `demt.files.pickles`.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is no such file, is damaged, or claims to hold more than it does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.content: Any
        try:
            self.content, self._places = (_read_zip if zipfile.is_zipfile(path) else _read_old)(path, self.size)
        except PermissionError:
            raise
        except (zipfile.BadZipFile, EOFError, struct.error, OSError, OverflowError, RuntimeError) as error:
            # Damaged archives lead to places before the file, or seem to be encrypted.
            raise ValueError(f"it is cut off or damaged ({error})") from error

    def tensors(self, entries: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Some of its tensors by name, each with memory of its own.

        Raises:
            ValueError: naming the entry, if one reaches beyond its storage or has more values than that; if all
                together are several times the file; if a dtype is none of torch's.
        """
        total = sum(self._bytes(name, stored) for name, stored in entries.items())
        # Entries that share values stand in the file once.
        if total > 8 * self.size:
            raise ValueError(f"its tensors claim to have {total:,} bytes, but the file has {self.size:,}")
        with self.path.open("rb") as file:
            return {name: self._read(file, stored) for name, stored in entries.items()}

    def _bytes(self, name: str, stored: StoredTensor) -> int:
        """How many bytes a tensor reaches over."""
        values, reach = 1, _reach(stored)
        length = self._places.get(stored.storage.key, (0, 0))[1] // _dtype(name, stored).itemsize
        for side in stored.size:
            values *= side
        if values and max(stored.offset + reach, values) > length:
            raise ValueError(
                f"{name!r} has shape {stored.size}, stride {stored.stride} and offset {stored.offset}, but its storage "
                f"has {length:,} values"
            )
        return reach * _dtype(name, stored).itemsize

    def _read(self, file: IO[bytes], stored: StoredTensor) -> Tensor:
        import torch

        dtype, reach = _dtype("", stored), _reach(stored)
        if not reach:
            return torch.empty(stored.size, dtype=dtype)
        file.seek(self._places[stored.storage.key][0] + stored.offset * dtype.itemsize)
        values = torch.frombuffer(bytearray(file.read(reach * dtype.itemsize)), dtype=dtype)
        return values.as_strided(stored.size, stored.stride).contiguous()


def _reach(stored: StoredTensor) -> int:
    """Values of the storage from a tensor's first to its last."""
    return 0 if 0 in stored.size else 1 + sum((side - 1) * step for side, step in zip(stored.size, stored.stride))


def _dtype(name: str, stored: StoredTensor) -> torch.dtype:
    import torch

    # Not getattr, which imports some modules of torch when they are named.
    dtype = vars(torch).get(stored.dtype)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is a tensor of {stored.dtype!r}, which is not read")
    return dtype


def _read_zip(path: Path, size: int) -> tuple[Any, dict[str, _Place]]:
    """Content and places of storages: an archive of an outline, data.pkl, and uncompressed files data/KEY."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        infos = archive.infolist()
        if len(infos) > _MAX_ENTRIES:
            raise ValueError(f"it is an archive of {len(infos):,} files, expected at most {_MAX_ENTRIES:,}")
        outlines = [info for info in infos if info.filename.split("/", 1)[-1] == "data.pkl"]
        if len(outlines) != 1:
            raise ValueError("it is an archive, but not one of torch.save: it has no data.pkl")
        if any(info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size for info in infos):
            raise ValueError("it is a compressed archive, which torch.save does not write")
        if sum(info.file_size for info in infos) > size:
            raise ValueError("it is an archive of files that are larger than itself")
        if outlines[0].file_size > MAX_BYTES:
            raise ValueError(f"its pickle has {outlines[0].file_size:,} bytes, expected at most {MAX_BYTES:,}")
        folder = outlines[0].filename.removesuffix("data.pkl")
        order = next((info for info in infos if info.filename == f"{folder}byteorder"), None)
        if order is not None and order.file_size != len("little"):
            raise ValueError("it was written on a machine with another byte order")
        content, _ = read_pickle(io.BytesIO(archive.read(outlines[0])))
        stored = {info.filename.removeprefix(f"{folder}data/"): info for info in infos}
        places = {key: (_start(file, info), info.file_size) for key, info in stored.items()}
        if any(sum(place) > size for place in places.values()):
            raise ValueError("it is cut off")
        return content, places


def _start(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where a file of an archive begins: behind a header whose length the archive's directory does not say."""
    file.seek(info.header_offset)
    magic, name, extra = struct.unpack("<4s22xHH", file.read(30))
    if magic != b"PK\3\4":
        raise ValueError(f"{info.filename!r} in it is damaged")
    return int(info.header_offset + 30 + name + extra)


def _read_old(path: Path, size: int) -> tuple[Any, dict[str, _Place]]:
    """The same of torch before 1.6: pickles, and behind them the storages, each with its number of values."""
    with path.open("rb") as file:
        stream = io.BytesIO(file.read(MAX_BYTES + 1))
        if stream.getvalue()[:1] != b"\x80" or read_pickle(stream)[0] != _MAGIC:
            raise ValueError("it is neither a file of torch.save nor a safetensors file")
        read_pickle(stream)
        machine, _ = read_pickle(stream)
        content, storages = read_pickle(stream)
        keys, _ = read_pickle(stream)
        if not isinstance(machine, dict) or machine.get("little_endian") is not True or not isinstance(keys, list):
            raise ValueError("it was written on a machine with another byte order, or is damaged")
        places: dict[str, _Place] = {}
        place = stream.tell()
        for key in keys:
            file.seek(place)
            (count,) = struct.unpack("<Q", file.read(8))
            if not isinstance(key, str) or key not in storages:
                raise ValueError("it is damaged")
            places[key] = place + 8, count * _width(storages[key].dtype)
            place = sum(places[key])
            if place > size:
                raise ValueError("it is cut off")
        return content, places


def _width(dtype: str) -> int:
    import torch

    return int(getattr(vars(torch).get(dtype), "itemsize", 1))
