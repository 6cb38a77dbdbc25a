"""MATLAB's files of versions 4 to 7. Every length in a file is checked against its size before use.

SciPy's compiled reader crashes the process on some damaged files. Values are those that `scipy.io.loadmat` gives.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Order: TypeAlias = Literal["<", ">"]

#: Values in cells and structures, characters of a text and levels of nesting that are read; real files have far fewer.
MAX_VALUES, MAX_TEXT, MAX_DEPTH = 2**17, 2**22, 32

_INTEGERS, _MATRIX, _COMPRESSED = (5, 6), 14, 15
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CODECS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHAR, _NUMERIC, _OPAQUE = 1, 2, 4, range(6, 16), 17
_OTHERS = {3: "an object", 5: "a sparse matrix", 16: "a function"}
_DTYPES_4 = ("f8", "f4", "i4", "i2", "u2", "u1")


class Unread(str):
    """What a variable is whose values are not read, in words: ``"a sparse matrix"``."""

    __slots__ = ()


def read_matlab(contents: bytes, max_bytes: int) -> dict[str, Any]:
    """Variables of a MATLAB file of these contents, by their names.

    Numbers are arrays of the dtype in which they are stored, texts are arrays of one string for each row, cells are
    arrays of objects, and structures are structured arrays of objects. Others are `Unread`.

    Args:
        contents: The file.
        max_bytes: What its compressed variables may unpack to, together.

    Raises:
        ValueError: if it is damaged, of version 7.3 (HDF5), or holds more than it may.
    """
    if b"MATLAB 7.3 MAT-file" in contents[:116] or contents[:4] == b"\x89HDF":
        raise ValueError("it is of version 7.3 (HDF5); save it again in MATLAB with save(..., '-v7')")
    if 0 in contents[:4]:
        return _read_4(memoryview(contents))
    if contents[126:128] not in (b"IM", b"MI"):
        raise ValueError("it is not a MATLAB file of version 4 to 7")
    order: Order = "<" if contents[126:128] == b"IM" else ">"
    elements, file = _Elements(memoryview(contents)[128:], order), _File(order)
    variables = {}
    while elements:
        kind, data = elements.take()
        if kind == _COMPRESSED:
            data = _unpack(data, max_bytes)
            max_bytes -= len(data)
            kind, data = _Elements(data, order).take()
        if kind == _MATRIX:
            name, value = file.matrix(data)
            variables[name] = value
    variables.pop("", None)  # what MATLAB stores of functions, which is no variable
    return variables


def _unpack(data: memoryview, max_bytes: int) -> memoryview:
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"a compressed variable is damaged: {error}") from None
    if len(unpacked) > max_bytes:
        raise ValueError("it unpacks to more bytes than are read")
    if not stream.eof:
        raise ValueError("a compressed variable is cut off")
    return memoryview(unpacked)


class _Elements:
    """The elements of a piece of a file, one after the other: numbers of one type each, or what holds further ones."""

    def __init__(self, data: memoryview, order: Order) -> None:
        self.data, self.order, self.place = data, order, 0

    def __bool__(self) -> bool:
        return self.place < len(self.data)

    def take(self) -> tuple[int, memoryview]:
        """Type and contents of the next element."""
        if self.place + 8 > len(self.data):
            raise ValueError("it is cut off")
        kind, size = struct.unpack_from(f"{self.order}II", self.data, self.place)
        start = self.place + 8
        if kind >> 16:  # up to four bytes, which stand where others have their size
            kind, size, start = kind & 0xFFFF, kind >> 16, start - 4
            if size > 4:
                raise ValueError(f"a short element promises {size} bytes")
        if start + size > len(self.data):
            raise ValueError(f"an element promises {size} bytes, which the file does not have")
        # Compressed elements are not filled up to whole words.
        self.place = start + size + (0 if kind == _COMPRESSED else -(start + size) % 8)
        return kind, self.data[start : start + size]

    def numbers(self, kinds: Any = tuple(_DTYPES)) -> NDArray[Any]:
        """The next element's numbers."""
        kind, data = self.take()
        if kind not in kinds:
            raise ValueError(f"it has an element of type {kind} where numbers were expected")
        dtype = np.dtype(_DTYPES[kind])
        return np.frombuffer(data, np.dtype(f"{self.order}{_DTYPES[kind]}")).astype(dtype)

    def text(self) -> str:
        """The next element's characters."""
        kind, data = self.take()
        if kind not in _CODECS or len(data) > MAX_TEXT:
            raise ValueError(f"it has an element of type {kind} and {len(data)} bytes where a text was expected")
        codec = _CODECS[kind] + ("" if kind in (1, 2, 16) else {"<": "-le", ">": "-be"}[self.order])
        return bytes(data).decode(codec, "replace")


class _File:
    """Reads matrices, which is what MATLAB calls every value, and counts them."""

    def __init__(self, order: Order) -> None:
        self.order, self.count = order, 0

    def matrix(self, data: memoryview, depth: int = 0) -> tuple[str, Any]:
        """Name and value."""
        if not data:
            return "", np.zeros((0, 0))
        if depth > MAX_DEPTH:
            raise ValueError(f"its values are nested more than {MAX_DEPTH} deep")
        elements = _Elements(data, self.order)
        flags = elements.numbers(_INTEGERS)
        if len(flags) != 2:
            raise ValueError(f"a value has {len(flags)} flags")
        what, is_complex = int(flags[0]) & 0xFF, int(flags[0]) & 0x800
        if what == _OPAQUE:
            return elements.text(), Unread("an object")
        shape = tuple(map(int, elements.numbers(_INTEGERS)))
        if len(shape) < 2 or min(shape) < 0:
            raise ValueError(f"a value has the shape {shape}")
        name = elements.text()
        if what in _NUMERIC:
            return name, Unread("complex numbers") if is_complex else _reshaped(elements.numbers(), shape)
        if what == _CHAR:
            return name, _rows(elements.text(), shape)
        if what == _CELL:
            return name, self._cells(elements, shape, depth)
        if what == _STRUCT:
            return name, self._structures(elements, shape, depth)
        return name, Unread(_OTHERS.get(what, f"of the unknown class {what}"))

    def _cells(self, elements: _Elements, shape: tuple[int, ...], depth: int) -> NDArray[Any]:
        self._counted(math.prod(shape))
        values = np.empty(math.prod(shape), object)
        for number in range(len(values)):
            values[number] = self._inner(elements, depth)
        return values.reshape(shape, order="F")

    def _structures(self, elements: _Elements, shape: tuple[int, ...], depth: int) -> NDArray[Any]:
        (length,) = elements.numbers(_INTEGERS)
        if not 1 <= length <= 64:
            raise ValueError(f"its names of fields have a length of {length}")
        text = elements.text()
        names = [text[start : start + int(length)].partition("\0")[0] for start in range(0, len(text), int(length))]
        self._counted(math.prod(shape) * max(len(names), 1))
        values = np.empty(math.prod(shape), [(name, object) for name in names])
        for number in range(len(values)):
            values[number] = tuple(self._inner(elements, depth) for _ in names)
        return values.reshape(shape, order="F")

    def _inner(self, elements: _Elements, depth: int) -> Any:
        kind, data = elements.take()
        if kind != _MATRIX:
            raise ValueError(f"it has an element of type {kind} where a value was expected")
        return self.matrix(data, depth + 1)[1]

    def _counted(self, more: int) -> None:
        self.count += more
        if self.count > MAX_VALUES:
            raise ValueError(f"its cells and structures promise {self.count} values; at most {MAX_VALUES} are read")


def _reshaped(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if values.size != math.prod(shape):
        raise ValueError(f"it has {values.size} numbers for the shape {shape}")
    return values.reshape(shape, order="F")


def _rows(text: str, shape: tuple[int, ...]) -> Any:
    """Texts (rows,) of characters that are stored column by column."""
    rows = shape[0]
    # Characters of several bytes may be counted as several.
    if len(shape) != 2 or (rows > 1 and len(text) != math.prod(shape)):
        return Unread(f"text of the shape {shape}")
    return np.array([text[row::rows] for row in range(min(rows, len(text) or 1))], str)


def _read_4(contents: memoryview) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    order: Order = "<" if len(contents) >= 4 and struct.unpack_from("<I", contents)[0] < 5000 else ">"
    place = 0
    while place < len(contents):
        if place + 20 > len(contents):
            raise ValueError("it is cut off")
        code, rows, columns, is_complex, length = struct.unpack_from(f"{order}5i", contents, place)
        number, what = code // 10 % 10, code % 10
        if not 0 <= code < 5000 or code // 100 % 10 or number > 5 or what > 2 or min(rows, columns, length - 1) < 0:
            raise ValueError("it is not a MATLAB file of version 4 to 7")
        dtype = np.dtype(_DTYPES_4[number])
        start, count = place + 20 + length, rows * columns
        place = start + count * dtype.itemsize * (2 if is_complex else 1)
        if place > len(contents):
            raise ValueError(f"it is cut off: a variable promises {dtype} {rows, columns}")
        values = np.frombuffer(contents, np.dtype(f"{order}{_DTYPES_4[number]}"), count, start).astype(dtype)
        value: Any = values.reshape((rows, columns), order="F")
        if what or is_complex:
            value = Unread(("complex numbers", "text", "a sparse matrix")[what])
        variables[bytes(contents[start - length : start - 1]).decode("latin-1")] = value
    return variables
