"""Weights from anyone's files: equal to what torch reads, and never more than the file holds."""

import contextlib
import io
import json
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from demt.files.pickles import read_pickle
from demt.files.torch_files import TorchFile
from demt.files.weights import read_weights
from tests.memory import little_memory

TENSORS = {
    "matrix": torch.randn(3, 4),
    "turned": torch.randn(4, 5).t(),
    "row": torch.randn(6, 2)[1::2],
    "number": torch.tensor(3),
    "none": torch.zeros(0, 3),
    "half": torch.randn(3).half(),
    "bfloat": torch.randn(3).bfloat16(),
    "bool": torch.tensor([True, False]),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "parameter": torch.nn.Parameter(torch.randn(2)),
}
TENSORS["shared"] = TENSORS["matrix"][1:, :2]
NEWER = {"float8": torch.randn(3).to(torch.float8_e4m3fn), "uint16": torch.tensor([65535], dtype=torch.uint16)}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("wrap", [dict, OrderedDict, lambda t: {"state_dict": t, "epoch": 3}, lambda t: {"model": t}])
def test_equal_to_torch_load(file, options, wrap):
    tensors = TENSORS if options else {**TENSORS, **NEWER}
    torch.save(wrap(tensors), file, **options)
    found, wanted = read_weights(file), torch.load(file, weights_only=True)
    wanted = wanted.get("state_dict", wanted.get("model", wanted))
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name].float(), tensor.detach().float(), rtol=0, atol=0)


def test_a_newer_protocol_of_pickle(file):
    torch.save(TENSORS, file, pickle_protocol=4)
    assert torch.equal(read_weights(file)["turned"], TENSORS["turned"])


def test_optimisers_and_modules_of_other_code_are_passed_over(file):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    more = {"optimizer": optimizer.state_dict(), "options": Path("a"), "milestones": Counter([1, 2]), "set": {1, 2}}
    torch.save({"state_dict": model.state_dict(), **more}, file)
    assert list(read_weights(file)) == ["weight", "bias"]
    assert TorchFile(file).content["optimizer"]["param_groups"][0]["lr"] == 1e-3


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "net.", "model._orig_mod.", "module.model.", "_orig_mod.module."]
)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_prefixes_of_wrappers(file, prefix, ending):
    state = {f"{prefix}{name}": torch.randn(2) for name in ("backbone.weight", "head.weight")}
    file = file.with_suffix(f".{ending}")
    save_file(state, file) if ending == "safetensors" else torch.save(state, file)
    assert list(read_weights(file)) == ["backbone.weight", "head.weight"]


def test_prefixes_that_torch_writes(file):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    names = list(model.state_dict())
    torch.save(torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(model)).state_dict(), file)
    assert list(read_weights(file)) == names
    model[1] = torch.compile(model[1])
    torch.save(model.state_dict(), file)
    assert list(read_weights(file)) == names


def test_prefixes_that_only_some_have_stay(file):
    torch.save({"model.backbone.weight": torch.ones(1), "loss.weight": torch.ones(1)}, file)
    assert list(read_weights(file)) == ["model.backbone.weight", "loss.weight"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r"holds a list, expected a state dict: save model\.state_dict\(\)"),
        (torch.nn.Linear(1, 1), r"a whole module, perhaps.*save model\.state_dict\(\)"),
        ({"epoch": 3, "optimizer": {}}, r'no tensors by name.*"epoch", "optimizer"'),
        ({"state_dict": {"a": torch.ones(1), "b": "text"}}, "entry 'b' is not a dense tensor"),
        ({"a": torch.ones(2).to_sparse(), "b": torch.ones(1)}, "entry 'a' is not a dense tensor"),
        ({"a": torch.ones(2, dtype=torch.complex64), "b": torch.ones(1)}, "ComplexFloatStorage"),
    ],
    ids=["list", "module", "other", "text", "sparse", "complex"],
)
def test_files_without_weights(file, content, message):
    torch.save(content, file)
    with pytest.raises(ValueError, match=rf"weights\.pth.*{message}"):
        read_weights(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a file of torch.save"),
        (b"hello", "neither a file of torch.save nor a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "run `git lfs pull`"),
        (pickle.dumps({"a": 1}), "neither a file of torch.save"),
        (b"\x80\x02" + b"x" * 40, "opcode b.x. unknown"),
    ],
)
def test_files_of_another_kind(file, content, message):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"weights\.pth.*{message}"):
        read_weights(file)
    with pytest.raises(FileNotFoundError, match="No weights at"):
        read_weights(file.with_name("nothing"))


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("rest", [0.99, 0.9, 0.5, 0.1])
def test_files_that_are_cut_off(file, options, rest):
    torch.save({"a": torch.randn(1000), "b": torch.randn(1000)}, file, **options)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * rest)])
    with pytest.raises(ValueError, match=r"weights\.pth"):
        read_weights(file)


@pytest.mark.parametrize(("field", "place", "value"), [(b"PK\1\2", 8, 1), (b"PK\1\2", 42, 2**31)])
def test_damaged_directories_of_archives(file, field, place, value):
    torch.save({"a": torch.ones(2)}, file)
    content = bytearray(file.read_bytes())
    start = content.index(field) + place
    content[start : start + (2 if value == 1 else 4)] = value.to_bytes(2 if value == 1 else 4, "little")
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pth.*"):
        read_weights(file)


# Files that ask for more than they hold


class Calls:
    """Pickled, it is a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def rewritten(file, change):
    """The archive with entries that `change` makes of its names and bytes."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in change(entries).items():
            archive.writestr(name, content)


def large_size(size, stride, offset=0):
    """A state dict whose only tensor is described so, in a storage of four bytes."""

    def write(file):
        torch.save({"a": torch.zeros(4)}, file)
        # Rewritten by the machine's own instructions: MARK, numbers, TUPLE.
        numbers = lambda values: b"(" + b"".join(b"\x8a\x09" + v.to_bytes(9, "little") for v in values) + b"t"  # noqa: E731
        outline = (
            b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
            b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
            + (b"\x8a\x09" + offset.to_bytes(9, "little"))
            + numbers(size)
            + numbers(stride)
            + b"\x89}tRs."
        )
        rewritten(file, lambda e: {n: outline if n.endswith("data.pkl") else c for n, c in e.items()})

    return write


def compressed(file):
    torch.save({"a": torch.zeros(2**24)}, file)
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def overlapping(file):
    """Entries of an archive's directory that all lead to the same megabyte."""
    torch.save({"a": torch.zeros(2**18)}, file)
    with zipfile.ZipFile(file, "a") as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
        for number in range(1, 900):
            again = zipfile.ZipInfo(info.filename[:-1] + str(number))
            again.header_offset, again.CRC = info.header_offset, info.CRC
            again.file_size = again.compress_size = info.file_size
            archive.filelist.append(again)
        archive._didModify = True


def old_storage(file):
    torch.save({"a": torch.zeros(4)}, file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    place = content.rindex(struct.pack("<Q", 4))
    file.write_bytes(content[:place] + struct.pack("<Q", 2**40) + content[place + 8 :])


def copies(function):
    """A pickle that makes the same long list into a set, a hundred thousand times."""

    def write(file):
        long = list(range(20_000))
        calls = [Calls(function, long) for _ in range(20_000)]
        torch.save({"state_dict": {"a": torch.zeros(1)}, "x": [long, *calls]}, file)

    return write


def many_entries(file):
    torch.save({"a": torch.zeros(1)}, file)
    rewritten(file, lambda e: e | {f"archive/data/{number}": b"" for number in range(1, 2000)})


def long_outline(file):
    torch.save({"a": torch.zeros(1)}, file)
    rewritten(
        file, lambda e: {n: b"\x80\x02" + b"}0" * 2**21 + b"}." if n.endswith(".pkl") else c for n, c in e.items()}
    )


def safetensors_header(file):
    text = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (large_size([2**40], [0]), "'a' has shape .1099511627776,., stride .0,."),
        (large_size([2**20, 2**20], [0, 0]), "its storage has 4 values"),
        (large_size([2], [2**40]), "its storage has 4 values"),
        (large_size([4], [1], offset=2**62), "its storage has 4 values"),
        (large_size([2**63], [1]), "impossible size"),
        (large_size([1] * 60, [1] * 60), "in a way that torch does not"),
        (compressed, "compressed archive"),
        (overlapping, "larger than itself"),
        (old_storage, "cut off"),
        (many_entries, "archive of 2,00. files"),
        (long_outline, "its pickle has more than"),
        (safetensors_header, "not a whole safetensors file"),
    ],
)
def test_what_is_larger_than_the_file_is_refused(file, write, message, monkeypatch):
    write(file)
    monkeypatch.setattr("demt.files.torch_files._MAX_ENTRIES", 1000)
    with little_memory(), pytest.raises(ValueError, match=rf"weights\.pth.*{message}"):
        read_weights(file)


@pytest.mark.parametrize("function", [set, Counter, torch.Size, OrderedDict.fromkeys])
def test_what_others_would_build_is_not(file, function):
    copies(function)(file)
    with little_memory():
        assert list(read_weights(file)) == ["a"]


@pytest.mark.parametrize("size", [6 * 2**30, 2**40])
def test_a_call_that_takes_gigabytes_is_none(file, size):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Calls(bytearray, size)}, file)
    with little_memory():
        assert list(read_weights(file)) == ["a"]


def test_deep_nesting_neither_crashes_nor_is_a_key(file):
    torch.save({"a": torch.zeros(1)}, file)
    deep = b"\x80\x02}X\x01\x00\x00\x00x}" + b")" + b"\x85" * 300_000 + b"NssX\x01\x00\x00\x00yKs."
    rewritten(file, lambda e: {n: deep if n.endswith("data.pkl") else c for n, c in e.items()})
    with contextlib.suppress(ValueError):
        TorchFile(file)


TEXT = b"X\x01\x00\x00\x00a"
DEEP = b")" + b"\x85" * 100_000
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + TEXT + TEXT + b"K\x04tQ"


@pytest.mark.parametrize(
    "program",
    [
        b"t",
        b"h\x07",
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + TEXT + b"K\x00))tR",
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"NNNtR",
        b"ctorch._utils\n_rebuild_tensor_v3\n(" + STORAGE + b"K\x00))\x89}K\x01}tR",
        b"ctorch._utils\n_rebuild_parameter\n)R",
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + DEEP + TEXT + b"K\x04tQ",
        DEEP + DEEP + b"\x93",
        TEXT + b"Q",
        b"I1\n",
        b"\x82\x01",
        b"\x8a\xff",
    ],
    ids=range(12),
)
def test_programs_that_torch_does_not_write(program):
    with pytest.raises(ValueError, match=r"outline|exhausted|unknown|not enough"):
        read_pickle(io.BytesIO(b"\x80\x02" + program + b"."))


def test_dtypes_are_no_other_names_of_torch(file):
    torch.save({"a": torch.zeros(4)}, file)
    names = {"FloatStorage": "UntypedStorage", "_rebuild_tensor_v2": "_rebuild_tensor_v3"}

    def change(entries):
        outline = entries["weights/data.pkl"]
        for old, new in names.items():
            outline = outline.replace(old.encode(), new.encode())
        place = outline.index(b"ccollections\nOrderedDict")
        return entries | {"weights/data.pkl": outline[:place] + b"N" + b"ctorch\nonnx\n" + b"}tq\x09Rs."}

    rewritten(file, change)
    with pytest.raises(ValueError, match="'a' is a tensor of 'onnx', which is not read"):
        read_weights(file)


def test_reading_needs_no_pickle(file, monkeypatch):
    monkeypatch.setattr(pickle, "Unpickler", None)
    monkeypatch.setattr(torch, "load", None)
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    file.write_bytes(buffer.getvalue())
    assert torch.equal(read_weights(file)["a"], torch.ones(2))
