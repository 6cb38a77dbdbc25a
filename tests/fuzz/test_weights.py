"""Random files of weights: what torch reads where they are whole, else refused in one line, and with little memory."""

import io
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from demt.files.pickles import StoredTensor, read_pickle
from demt.files.torch_files import TorchFile
from demt.files.weights import read_weights
from tests.fuzz import few_and_many, replaced, replacements
from tests.fuzz.test_readers import damaged
from tests.memory import little_memory

STATE = {"backbone.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.ones(4).half(), "n": torch.tensor(3)}


def saved(**options):
    buffer = io.BytesIO()
    torch.save({"state_dict": STATE, "epoch": 3}, buffer, **options)
    return buffer.getvalue()


FORMS = {
    "zip": saved(),
    "protocol 4": saved(pickle_protocol=4),
    "before 1.6": saved(_use_new_zipfile_serialization=False),
    "safetensors": save(STATE),
}


def try_to_read(file):
    try:
        read_weights(file)
    except ValueError as error:
        assert file.name in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("form", FORMS)
@few_and_many(60, 2000)
def test_damaged_files(tmp_path, form, inputs):
    file = tmp_path / "weights.pth"
    changes = st.tuples(st.integers(0, len(FORMS[form]) - 1), st.binary(min_size=1, max_size=4))

    @inputs
    @given(st.lists(changes, min_size=1, max_size=4), st.sampled_from([0, 0, 0, 1, 40, 300]))
    def run(changes, cut):
        file.write_bytes(damaged(FORMS[form], changes, cut))
        try_to_read(file)

    with little_memory():
        run()


with zipfile.ZipFile(io.BytesIO(FORMS["zip"])) as archive:
    OUTLINE = archive.read("archive/data.pkl")


@few_and_many(300, 10_000)
def test_damaged_outlines(inputs):
    @inputs
    @given(replacements(OUTLINE, 4))
    def run(places):
        try_to_run(replaced(OUTLINE, places))

    run()


# Instructions of the machine with their arguments; programs of them are nearly sensible.
NUMBER = st.integers(0, 4).map(lambda value: b"K" + bytes([value]))
LARGE = st.integers(0, 2**62).map(lambda value: b"\x8a\x08" + value.to_bytes(8, "little"))
SIMPLE = st.sampled_from([bytes([code]) for code in b"()]}tldaesuRbQ02N\x88\x81\x85\x86\x87\x8f\x90\x91\x92\x93\x94"])
NAMES = st.sampled_from(
    [
        *("torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_tensor_v3", "torch._utils\n_rebuild_parameter"),
        *("torch\nFloatStorage", "collections\nOrderedDict", "builtins\nbytearray", "os\nsystem", "torch\nfloat32"),
    ]
).map(lambda name: b"c" + name.encode() + b"\n")
TEXT = st.sampled_from(["storage", "0", "cpu", "state_dict", "a"]).map(
    lambda text: b"X" + len(text).to_bytes(4, "little") + text.encode()
)
MEMO = st.tuples(st.sampled_from([b"q", b"h"]), st.integers(0, 3)).map(lambda pair: pair[0] + bytes([pair[1]]))
STORAGE = st.just(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ")
PROGRAMS = st.lists(st.one_of(NUMBER, LARGE, SIMPLE, NAMES, TEXT, MEMO, STORAGE), max_size=40).map(
    lambda parts: b"\x80\x02" + b"".join(parts) + b"."
)


def try_to_run(content):
    try:
        return read_pickle(io.BytesIO(content))[0]
    except ValueError as error:
        assert len(str(error)) < 500  # noqa: PT017


@few_and_many(300, 15_000)
def test_programs(inputs):
    @inputs
    @given(PROGRAMS)
    def run(program):
        try_to_run(program)

    with little_memory():
        run()


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.bool]


@st.composite
def tensors(draw):
    """Tensors of any shape, and views of them."""
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape).to(draw(st.sampled_from(DTYPES)))
    if tensor.ndim and draw(st.booleans()):
        tensor = tensor.transpose(0, -1)
    if tensor.ndim and tensor.shape[0] > 1 and draw(st.booleans()):
        tensor = tensor[draw(st.integers(0, 1)) :: draw(st.integers(1, 2))]
    return tensor


CONTENT = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4), st.binary(max_size=4)
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3) | st.tuples(inner, inner)
    ),
    max_leaves=6,
)


@few_and_many(40, 1000)
@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
def test_whole_files_are_what_torch_reads(tmp_path, old, inputs):
    file = tmp_path / "weights.pth"

    @inputs
    @given(
        st.dictionaries(st.text(min_size=1, max_size=4), tensors(), min_size=1, max_size=3),
        CONTENT,
        st.sampled_from([2, 4]),
    )
    def run(state, more, protocol):
        # Texts that wrappers put before names are taken off elsewhere; bytes are calls of a function in protocol 2.
        state = {f"a{name}": tensor for name, tensor in state.items()}
        more = more if protocol == 4 else None
        torch.save(
            {"state_dict": state, "more": more}, file, pickle_protocol=protocol, _use_new_zipfile_serialization=not old
        )
        found = read_weights(file)
        assert list(found) == list(state)
        wanted = state if protocol == 4 else torch.load(file, weights_only=True)["state_dict"]
        for name, tensor in wanted.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(found[name], tensor)
        content = TorchFile(file).content
        assert content["more"] == more
        assert all(isinstance(value, StoredTensor) for value in content["state_dict"].values())

    run()
