"""docs/contributing.md and the files for contributors are true."""

import re
from pathlib import Path

import pytest
import yaml

from demt.config import NeckName
from demt.layers import NECKS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
FILES = [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]
CI = ROOT / ".github/workflows/ci.yml"


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_yaml_files_parse(file):
    assert isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict)


def test_the_workflow_runs_what_the_pages_say():
    jobs = yaml.safe_load(CI.read_text(encoding="utf-8"))["jobs"]
    run = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    tests = re.search(r"<!-- tests -->\n```bash\n(.*)\n```", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert " && ".join(run["tests"][-2:]) == tests[1]
    assert run["lint"][0] == run["tests"][-2]
    for command in run["lint"][1:4]:
        assert f"`{command.replace(' --check', '')}`" in PAGE
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == run["lint"][1:4]


def test_the_workflow_begins_at_the_oldest_versions():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest = yaml.safe_load(CI.read_text(encoding="utf-8"))["jobs"]["tests"]["strategy"]["matrix"]["include"][0]
    assert f'requires-python = ">={oldest["python"]}"' in project
    for package in oldest["versions"].split():
        name, version = package.removesuffix(".*").split("==")
        assert f'"{name}>={version}"' in project


def test_the_floor_plan_is_that_of_the_contracts():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.search(r'type = "layers"\nlayers = \[\n(.*?)\n\]', project, re.S)[1]
    drawn = re.search(r"```text\n(.*?)\n```", PAGE, re.S)[1]
    assert drawn.split("\n") == [line.strip(' ",').replace("demt.", "") for line in layers.split("\n")]
    there = {path.stem for path in (ROOT / "demt").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    parts = re.findall(r"^\| `(\w+)` \|", PAGE, re.M)
    assert {*parts, "__init__", "__main__"} == there


def test_every_neck_of_a_configuration_has_a_class():
    assert set(NECKS) == set(NeckName.__args__)
