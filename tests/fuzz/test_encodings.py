"""Random numbers under every encoding: labels that are ones of their task, or an error that names the file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from demt.data import ENCODINGS, DataError, Encoding
from demt.tasks import resolve_tasks
from tests.fuzz import few_and_many

TASKS = resolve_tasks({"semseg": 5, "sal": 2, "depth": 1, "normals": 3, "edge": 1, "flow": {"channels": 2}})
FILE = Path("some/file.png")
DTYPES = ["u1", "u2", "i4", "i8", "f2", "f4", "f8", "?"]
USUAL = st.sampled_from([0, 1, 2, 4, 5, 127, 128, 254, 255])
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        st.one_of(
            hnp.array_shapes(min_dims=2, max_dims=2, max_side=4),
            st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
        ),
        elements=st.one_of(USUAL.map(lambda v: np.dtype(dtype).type(v).item()), hnp.from_dtype(np.dtype(dtype))),
    )
)
NUMBERS = st.one_of(USUAL, st.floats(-300, 300))
OWN = st.builds(
    Encoding,
    divisor=NUMBERS.filter(bool),
    offset=NUMBERS,
    invalid=st.lists(st.one_of(NUMBERS, st.just(float("nan"))), max_size=2).map(tuple),
    ids=st.one_of(st.none(), st.dictionaries(st.integers(0, 255), st.integers(0, 5), max_size=3)),
    threshold=st.one_of(st.none(), NUMBERS),
    signs=st.tuples(*[st.sampled_from([1.0, -1.0])] * 3),
    kind=st.sampled_from([None, "values", "depth", "disparity"]),
)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("task", TASKS)
@few_and_many(100, 5000)
def test_labels_are_those_of_the_task(task, inputs):
    @inputs
    @given(ARRAYS, st.one_of(st.sampled_from(list(ENCODINGS.values())), OWN))
    def run(stored, encoding):
        try:
            label = encoding.decode(stored, TASKS[task], FILE)
        except DataError as error:
            assert str(FILE) in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
            return
        values = label.numpy()
        void = values == 255
        channels = 1 if task in ("semseg", "sal") else TASKS[task].channels
        assert values.shape == (channels, *stored.shape[:2])
        if task in ("semseg", "sal"):
            assert values.dtype == np.uint8
            assert ((values < TASKS[task].channels) | void).all()
            return
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        kind = encoding.kind_for(TASKS[task])
        if kind in ("depth", "disparity"):
            assert (values >= 0).all()
            assert not (values == 0).all(0).any()
        if kind == "normals":
            assert ((np.abs(values) <= 1.002) | void).all()
            assert not (np.abs(values) < 1 / 128).all(0).any()
        if kind == "boundary":
            assert (((values >= 0) & (values <= 1)) | void).all()

    run()


@few_and_many(100, 5000)
def test_what_is_stored_comes_back(inputs):
    @inputs
    @given(
        hnp.arrays("u1", (2, 3), elements=st.sampled_from([0, 1, 2, 3, 4, 255])),
        hnp.arrays("u2", (2, 3)),
        st.permutations(range(10, 15)),
    )
    def run(classes, millimetres, numbers):
        assert np.array_equal(ENCODINGS["classes"].decode(classes, TASKS["semseg"], FILE)[0], classes)
        ids = dict(zip(numbers, range(5)))
        stored = np.select([classes == label for label in range(5)], numbers, 255)
        assert np.array_equal(Encoding(ids=ids).decode(stored, TASKS["semseg"], FILE)[0], classes)
        depth = ENCODINGS["millimetres"].decode(millimetres, TASKS["depth"], FILE)[0].numpy()
        metres = millimetres / 1000
        assert np.allclose(depth, np.where(millimetres == 0, 255, metres), rtol=1e-6)

    run()
