"""Damaged image and label files: read, or refused in one line that names the file."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from demt.data import DataError
from demt.data.files import load_mat, read_array
from demt.data.images import read_image, read_pixels
from tests.data.test_security import FORMS, VALID
from tests.fuzz import few_and_many
from tests.memory import little_memory

CHANGES = st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4)


def damaged(content, changes, cut):
    content = bytearray(content)
    for place, new in changes:
        place %= len(content)
        content[place : place + len(new)] = new
    return bytes(content[: len(content) - cut % len(content)])


def try_to_read(path):
    for read in (read_array, read_pixels, *((read_image,) if path.suffix not in (".npy", ".npz", ".mat") else ())):
        try:
            read(path)
        except DataError as error:
            assert path.name in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
@few_and_many(40, 5000)
def test_damaged_files_are_one_line_that_names_them(tmp_path, form, inputs):
    @inputs
    @given(CHANGES, st.one_of(st.sampled_from([0, 0, 1, 40]), st.integers(0, 200)))
    def run(changes, cut):
        path = tmp_path / f"damaged.{form}"
        path.write_bytes(damaged(VALID[form], changes, cut))
        try_to_read(path)

    run()


def matlab_file(**options):
    """Structures in cells in structures, as the parts of PASCAL's people are, and all kinds of numbers."""
    part = {"name": "head", "mask": np.eye(5, dtype=np.uint8), "empty": np.zeros((0, 0))}
    content = {"v": np.eye(4), "w": np.arange(6, dtype=np.int16)}
    if options.get("format") != "4":
        content |= {"anno": {"name": "a", "objects": [{"parts": [part, part]}, 3.0]}, "z": np.eye(2) * 1j}
    savemat(buffer := io.BytesIO(), content, **options)
    return buffer.getvalue()


def packed_again(content):
    """The file with all of its variables as one compressed element: what is damaged before is not found by zlib."""
    body = zlib.compress(content[128:])
    return content[:128] + (15).to_bytes(4, "little") + len(body).to_bytes(4, "little") + body


MATLAB = {
    "plain": (matlab_file(), bytes),
    "version 4": (matlab_file(format="4"), bytes),
    "compressed": (matlab_file(do_compression=True), bytes),
    "compressed later": (matlab_file(), packed_again),
}


@pytest.mark.parametrize("form", MATLAB)
@few_and_many(100, 10_000)
def test_damaged_matlab_files(tmp_path, form, inputs):
    content, finish = MATLAB[form]
    path = tmp_path / "damaged.mat"
    values = st.sampled_from([b"\xff", b"\0", b"\x7f", b"\xff\xff\xff\x7f", b"\x0e\0\0\0", b"\x01\0\0\0"])
    changes = st.lists(
        st.tuples(st.integers(0, len(content) - 1), values | st.binary(min_size=1, max_size=4)), max_size=4
    )

    @inputs
    @given(changes, st.sampled_from([0, 0, 0, 1, 8, 40, 300]))
    def run(changes, cut):
        try:
            load_mat(finish(damaged(content, changes, cut)), path)
        except DataError as error:
            assert path.name in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017

    with little_memory():
        run()
