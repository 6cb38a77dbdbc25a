"""PNG of RGB with 16 bits a channel, of which Pillow reads and writes 8: after the PNG specification, 3rd edition."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Bytes of a pixel.
_PIXEL = 6


def encode_colours(values: NDArray[np.uint16], texts: Mapping[str, str] | None = None) -> bytes:
    """A file of colours (H, W, 3), with texts (Latin-1) by keyword."""
    stored = values.astype(">u2").reshape(len(values), -1).view(np.uint8)
    # Each row as its difference from the one above, filter 2: neighbours are alike.
    rows = np.diff(stored, axis=0, prepend=np.zeros((1, stored.shape[1]), np.uint8))
    filtered = np.concatenate([np.full((len(rows), 1), 2, np.uint8), rows], axis=1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0))]
    chunks += [(b"tEXt", f"{keyword}\0{text}".encode("latin1")) for keyword, text in (texts or {}).items()]
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    parts = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return _SIGNATURE + b"".join(parts)


def decode_colours(contents: bytes) -> NDArray[np.uint16]:
    """The colours (H, W, 3) of a file.

    Raises:
        ValueError: if it is no such file, is interlaced, or damaged.
    """
    chunks = list(_chunks(contents))
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise ValueError("it is not a PNG")
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if (bits, colour, interlaced) != (16, 2, 0):
        raise ValueError("expected 16-bit RGB that is not interlaced")
    stride = 1 + width * _PIXEL
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"), height * stride + 1)
    except zlib.error as error:
        raise ValueError(f"it is damaged: {error}") from error
    if len(data) != height * stride or not unpacker.eof:
        raise ValueError("it is cut off")
    rows = np.frombuffer(data, np.uint8).reshape(height, stride)
    above = np.zeros(width * _PIXEL, np.uint8)
    found = np.empty((height, width * _PIXEL), np.uint8)
    for place, row in enumerate(rows):
        above = found[place] = _unfiltered(int(row[0]), row[1:], above)
    return found.view(">u2").astype(np.uint16).reshape(height, width, 3)


def _chunks(contents: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(_SIGNATURE)
    while place + 12 <= len(contents):
        length, kind = struct.unpack_from(">I4s", contents, place)
        body = contents[place + 8 : place + 8 + length]
        if contents[place + 8 + length :][:4] != struct.pack(">I", zlib.crc32(kind + body)):
            raise ValueError("it is cut off or damaged")
        yield kind, body
        place += 12 + length


def _unfiltered(kind: int, row: NDArray[np.uint8], above: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A row's bytes from its differences and the row above; sums are those of bytes, modulo 256."""
    if kind == 0:
        return row
    if kind == 1:
        return row.reshape(-1, _PIXEL).cumsum(0, dtype=np.uint8).reshape(-1)
    if kind == 2:
        return row + above
    if kind not in (3, 4):
        raise ValueError("it is damaged: there is no such filter")
    # What these predict from the left needs the byte before: one at a time.
    differences, over, found = row.tolist(), [0] * _PIXEL + above.tolist(), [0] * _PIXEL
    for place, difference in enumerate(differences):
        left, up, corner = found[place], over[place + _PIXEL], over[place]
        guess = (left + up) // 2 if kind == 3 else _paeth(left, up, corner)
        found.append((difference + guess) % 256)
    return np.array(found[_PIXEL:], np.uint8)


def _paeth(left: int, up: int, corner: int) -> int:
    """Of the three, the one nearest to left + up - corner; of equally near ones the first."""
    estimate = left + up - corner
    return min((left, up, corner), key=lambda value: abs(estimate - value))
