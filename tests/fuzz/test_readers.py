"""Damaged image and label files: read, or refused in one line that names the file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demt.data import DataError
from demt.data.files import read_array
from demt.data.images import read_image, read_pixels
from tests.data.test_security import FORMS, VALID
from tests.fuzz import few_and_many

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
# scipy's own reader of .mat files can crash the process on a damaged one: see docs/security.md.
@pytest.mark.parametrize("form", [form for form in FORMS if form != "mat"])
@few_and_many(40, 5000)
def test_damaged_files_are_one_line_that_names_them(tmp_path, form, inputs):
    @inputs
    @given(CHANGES, st.one_of(st.sampled_from([0, 0, 1, 40]), st.integers(0, 200)))
    def run(changes, cut):
        path = tmp_path / f"damaged.{form}"
        path.write_bytes(damaged(VALID[form], changes, cut))
        try_to_read(path)

    run()
