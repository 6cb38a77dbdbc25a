"""Own reader of MATLAB's files against SciPy's, and the limits that SciPy's does not have."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from demt.data import matlab
from demt.data.matlab import Unread, read_matlab

# Files of real MATLAB versions on several machines, where SciPy was installed with its tests.
REAL = sorted((Path(scipy.io.__file__).parent / "matlab/tests/data").glob("*.mat"))
# SciPy reads it with the names changed, refuses a name in UTF-8, and says "object" for a structure without fields.
OTHERWISE = ("nasty_duplicate_fieldnames", "bad_miutf8_array_name", "test_empty_struct", "one_by_zero_char")


def saved(values, **options):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, values, **options)
    return buffer.getvalue()


def read_by_scipy(contents):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = scipy.io.loadmat(io.BytesIO(contents))
    return {name: value for name, value in values.items() if not name.startswith("__")}


def same(found, wanted):
    """Compare values, whatever is in them, and count the arrays of numbers and texts."""
    if isinstance(found, Unread):
        assert not isinstance(wanted, np.ndarray) or wanted.dtype.kind not in "buif"
        return 0
    assert found.shape == wanted.shape
    assert found.dtype.names == wanted.dtype.names
    if names := found.dtype.names:
        return sum(same(found[place][name], wanted[place][name]) for place in np.ndindex(found.shape) for name in names)
    if found.dtype == object:
        return sum(same(found[place], wanted[place]) for place in np.ndindex(found.shape))
    assert found.dtype == wanted.dtype.newbyteorder("=")
    assert np.array_equal(found, wanted, equal_nan=found.dtype.kind == "f")
    return 1


@pytest.mark.skipif(not REAL, reason="SciPy is installed without its tests")
def test_real_files_are_what_scipy_reads():
    read, values = 0, 0
    for file in REAL:
        if file.stem in OTHERWISE:
            continue
        try:
            wanted = read_by_scipy(file.read_bytes())
        except Exception:
            with pytest.raises(ValueError, match=r"."):
                read_matlab(file.read_bytes(), 2**20)
            continue
        found = read_matlab(file.read_bytes(), 2**20)
        assert set(found) == set(wanted)
        values += sum(same(found[name], wanted[name]) for name in wanted)
        read += 1
    assert read > 80
    assert values > 100


NUMBERS = st.sampled_from(["u1", "u2", "i2", "i4", "f4", "f8", "?"]).flatmap(
    lambda dtype: st.tuples(st.integers(0, 4), st.integers(1, 4)).map(
        lambda shape: (np.arange(np.prod(shape)) * 3 % 7).astype(dtype).reshape(shape)
    )
)
NAMES = st.text("abcxyz_019", min_size=1, max_size=6).map(lambda text: "n" + text)
VALUES = st.recursive(
    NUMBERS | st.text("abc äΩ", min_size=1, max_size=5),
    lambda inner: (
        st.dictionaries(NAMES, inner, min_size=1, max_size=3)
        | st.lists(inner, min_size=2, max_size=3).map(lambda items: cells(items))
    ),
    max_leaves=6,
)


def cells(items):
    array = np.empty(len(items), object)
    for number, item in enumerate(items):
        array[number] = item
    return array


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=3), st.booleans())
def test_written_values_are_what_scipy_reads(values, compressed):
    contents = saved(values, do_compression=compressed)
    found, wanted = read_matlab(contents, 2**20), read_by_scipy(contents)
    assert set(found) == set(wanted)
    for name in wanted:
        same(found[name], wanted[name])


@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "i2", "u2", "u1"])
def test_version_4(dtype):
    values = {"a": np.arange(6, dtype=dtype).reshape(2, 3), "b": np.ones((1, 4), dtype)}
    found = read_matlab(saved(values, format="4"), 2**20)
    for name, value in values.items():
        assert found[name].dtype == value.dtype
        assert np.array_equal(found[name], value)


@pytest.mark.parametrize("value", [np.eye(2) * 1j, scipy.sparse.eye_array(3).tocsc()])
@pytest.mark.parametrize("version", ["4", "5"])
def test_what_no_label_is(value, version):
    found = read_matlab(saved({"odd": value, "map": np.eye(2)}, format=version), 2**20)
    assert isinstance(found["odd"], Unread)
    assert np.array_equal(found["map"], np.eye(2))


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8 if kind != 15 else 0)


def matrix(what, shape, *parts):
    flags, dims = struct.pack("<II", what, 0), struct.pack(f"<{len(shape)}i", *shape)
    return element(14, element(6, flags) + element(5, dims) + element(1, b"v") + b"".join(parts))


def file_of(*elements):
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(elements)


NESTED = matrix(9, (1, 1), element(2, b"7"))
for _ in range(matlab.MAX_DEPTH + 1):
    NESTED = matrix(1, (1, 1), NESTED)

HOSTILE = {
    "a compressed gigabyte": (element(15, zlib.compress(bytes(2**21))), "unpacks to more"),
    "half a stream": (element(15, zlib.compress(NESTED)[:30]), "cut off"),
    "many cells": (matrix(1, (2**15, 2**16)), "promise 2147483648 values"),
    "many structures": (
        matrix(2, (2**15, 2**16), element(5, struct.pack("<i", 8)), element(1, b"a" * 8)),
        "promise 2147483648 values",
    ),
    "many structures of nothing": (
        matrix(2, (2**15, 2**16), element(5, struct.pack("<i", 8)), element(1, b"")),
        "promise 2147483648 values",
    ),
    "fields without length": (matrix(2, (1, 1), element(5, bytes(4)), element(1, b"a" * 8)), "length of 0"),
    "many numbers": (matrix(9, (2**31 - 1, 2**31 - 1), element(2, b"7")), "1 numbers for the shape"),
    "less than nothing": (matrix(9, (-1, 1), element(2, b"7")), "shape"),
    "a short element of 9 bytes": (struct.pack("<HHI", 14, 9, 0), "promises 9 bytes"),
    "deep nesting": (NESTED, "nested more than"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_promises_are_held_against_the_file(what):
    contents, said = HOSTILE[what]
    with pytest.raises(ValueError, match=said):
        read_matlab(file_of(contents), 2**20)


def test_a_limit_holds_for_all_variables_together():
    half = element(15, zlib.compress(matrix(9, (2**16, 10), element(2, bytes(10 * 2**16)))))
    assert read_matlab(file_of(half), 2**20)["v"].shape == (2**16, 10)
    with pytest.raises(ValueError, match="unpacks to more"):
        read_matlab(file_of(half, half), 2**20)
