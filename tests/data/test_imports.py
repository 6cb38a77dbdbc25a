import subprocess
import sys

import pytest

HEAVY = ("timm", "torchmetrics", "huggingface_hub", "transformers", "scipy", "skimage", "demt.models", "demt.metrics")


def loaded(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_all_of_demt_data_needs_torchvision_alone():
    modules = loaded("from demt.data import *; SyntheticRooms(size=(8, 8), length=1)[0]")
    assert "torchvision" in modules
    assert not set(HEAVY) & set(modules)


@pytest.mark.parametrize("name", ["demt.data", "demt.data.rooms", "demt.data.rooms.dice"])
def test_a_room_of_its_own_loads_neither_torch_nor_other_rooms(name):
    modules = loaded(f"import {name}")
    assert not {"torch", *HEAVY} & set(modules)
    assert sum(module.partition(".")[0] == "demt" for module in modules) <= name.count(".") + 1


def test_rooms_need_tasks_and_the_types_of_samples():
    modules = loaded("from demt.data.rooms import SyntheticRooms")
    types = {
        "tasks",
        "tasks.checks",
        "classes",
        "plugins",
        "files",
        "data",
        *(f"data.{n}" for n in ("batch", "dataset", "tv_tensors")),
    }
    own = {m.removeprefix("demt.") for m in modules if m.startswith("demt.") and not m.startswith("demt.data.rooms")}
    assert own <= types | {"data.files", "data.images", "data.matlab", "data.png16"}
