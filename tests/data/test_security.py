"""Each promise of docs/security.md on image and label files."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features
from scipy.io import savemat

from demt.data import DataError
from demt.data.files import MAX_PIXELS, read_array
from demt.data.images import read_image, read_pixels

PHOTO = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def saved(form, **options):
    buffer = io.BytesIO()
    if form in ("npy", "npz", "mat"):
        {"npy": np.save, "npz": lambda b, v: np.savez_compressed(b, v=v), "mat": lambda b, v: savemat(b, {"v": v})}[
            form
        ](buffer, PHOTO)
    else:
        Image.fromarray(PHOTO).save(buffer, form, **options)
    return buffer.getvalue()


FORMS = ["png", "jpeg", "tiff", "bmp", "webp", *(["avif"] if features.check("avif") else []), "npy", "npz", "mat"]
VALID = {form: saved(form) for form in FORMS}


@pytest.mark.parametrize("form", ["EPS", "PDF", "GIF", "PPM", "TGA", "ICO"])
def test_other_formats_are_not_opened_whatever_their_name(tmp_path, form):
    (tmp_path / "photo.jpg").write_bytes(saved(form))
    for read in (read_image, read_pixels, read_array):
        with pytest.raises(DataError, match=r"photo\.jpg.*not one of PNG"):
            read(tmp_path / "photo.jpg")


def test_pixels_are_counted_before_they_are_decoded(tmp_path):
    side = int(MAX_PIXELS**0.5) + 1
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body + struct.pack(">I", 0) + b"IDAT" + bytes(4))
    for read in (read_image, read_pixels, read_array):
        with pytest.raises(DataError, match=r"huge\.png.*pixels"):
            read(tmp_path / "huge.png")


def test_arrays_promise_no_more_than_they_hold(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(DataError, match=r"a\.npy.*cut off"):
        read_array(tmp_path / "a.npy")


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[print]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", np.array([[print]], dtype=object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            read_array(tmp_path / name)
