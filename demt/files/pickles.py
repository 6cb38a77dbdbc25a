"""Pickles read as data: nothing that one names is imported or called, and memory follows its length.

`torch.load(weights_only=True)` runs no code either, but a kilobyte can ask it for gigabytes: by ``bytearray(2**40)``,
by sets made of one long list again and again, by storages and views larger than the file. A pickle is a program for a
small machine with a stack. The one here has no instruction that calls anything: of what a file holds come out
dictionaries, lists, tuples, numbers, texts and descriptions of dense tensors; any other object is an empty dictionary.
"""

from __future__ import annotations

import dataclasses
import io
import pickletools
from typing import Any

# A checkpoint of 10,000 tensors and the state of their optimiser has 1.3 million steps in 4 MB.
MAX_BYTES, _MAX_STEPS = 2**24, 2_000_000
_VALUES = frozenset(
    """
    BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES
    BINBYTES8 BYTEARRAY8 BINSTRING SHORT_BINSTRING
    """.split()  # noqa: SIM905
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}


@dataclasses.dataclass(frozen=True)
class Global:
    """A class or function that a file names, ``"module.name"``."""

    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """Values of several tensors, by the key under which a file keeps them."""

    key: str
    dtype: str


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor as a file describes it: a view of a storage, in units of its dtype (torch's name of it)."""

    storage: Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickle(stream: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """The content of one pickle, and the storages it names.

    Raises:
        ValueError: if it is damaged, too long, or of a kind that torch does not write.
    """
    machine = _Machine()
    start = stream.tell()
    try:
        for step, (opcode, value, place) in enumerate(pickletools.genops(stream)):
            if step >= _MAX_STEPS or (place or 0) - start > MAX_BYTES:
                raise ValueError(f"its pickle has more than {MAX_BYTES:,} bytes or {_MAX_STEPS:,} steps")
            machine.step(opcode.name, value)
        return machine.stack.pop(), machine.storages
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError) as error:
        raise ValueError(f"its pickle is damaged ({error})") from error


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def step(self, name: str, value: Any) -> None:
        """Carry out one instruction."""
        stack = self.stack
        if name in _VALUES:
            stack.append(value)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[value] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[value])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(self.above_mark()))
        elif name in ("EMPTY_LIST", "EMPTY_SET"):
            stack.append([])
        elif name in ("LIST", "FROZENSET"):
            stack.append(self.above_mark())
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("APPENDS", "ADDITEMS"):
            _extend(self.above_mark(), stack[-1])
        elif name == "APPEND":
            _extend([stack.pop()], stack[-1])
        elif name in ("SETITEM", "SETITEMS"):
            items = self.above_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _update(stack[-1], items)
        elif name == "DICT":
            items = self.above_mark()
            stack.append({})
            _update(stack[-1], items)
        elif name == "GLOBAL":
            stack.append(Global(value.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(Global(f"{module[:200]}.{attribute[:200]}"))
        elif name == "BINPERSID":
            stack.append(self.storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_made(stack.pop(), arguments))
        elif name in ("NEWOBJ", "NEWOBJ_EX"):
            del stack[-3 if name == "NEWOBJ_EX" else -2 :]
            stack.append({})
        elif name == "BUILD":
            # The state of an object; of ordered dictionaries, which have items beside it, torch's own remarks.
            stack.pop()
        elif name == "POP":
            stack.pop()
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"its pickle has the instruction {name}, which torch does not write")

    def above_mark(self) -> list[Any]:
        """What stands on the stack above the last mark, taken off."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def storage(self, description: Any) -> Storage:
        """torch's ``("storage", class, key, location, number of values)``."""
        kind, storage_class, key, *rest = description
        known = isinstance(storage_class, Global) and isinstance(key, str)
        if kind != "storage" or not known or rest[2:] not in ([], [None]):
            raise ValueError("its pickle names a storage in a way that torch does not")
        class_name = storage_class.name.rsplit(".", 1)[-1]
        storage = Storage(key, _STORAGES.get(class_name, class_name))
        return self.storages.setdefault(storage.key, storage)


def _extend(items: list[Any], target: Any) -> None:
    if isinstance(target, list):
        target.extend(items)


def _update(target: Any, items: list[Any]) -> None:
    # Hashing a tuple of tuples of tuples… would exhaust the stack of the interpreter itself.
    if isinstance(target, dict):
        target.update((k, v) for k, v in zip(items[::2], items[1::2]) if isinstance(k, (str, int, float, Global)))


def _made(function: Any, arguments: Any) -> Any:
    """What calling a function gives that torch writes into pickles; an empty dictionary for all others."""
    name = function.name if isinstance(function, Global) else ""
    if name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
        storage, offset, size, stride, *_ = arguments
        return _tensor(storage, storage.dtype, offset, size, stride)
    if name == "torch._utils._rebuild_tensor_v3":
        storage, offset, size, stride, _, _, dtype, *_ = arguments
        return _tensor(storage, dtype.name.removeprefix("torch."), offset, size, stride)
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        return arguments[0]
    return {}


def _tensor(storage: Any, dtype: str, offset: Any, size: Any, stride: Any) -> StoredTensor:
    numbers = (offset, *size, *stride)
    if not isinstance(storage, Storage) or len(size) != len(stride) or len(size) > 32:
        raise ValueError("its pickle describes a tensor in a way that torch does not")
    if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers):
        raise ValueError("its pickle describes a tensor of impossible size")
    return StoredTensor(storage, dtype, offset, tuple(size), tuple(stride))
