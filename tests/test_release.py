"""A release: version, changelog and tag agree, and wheel and sdist hold what they should."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import demt
from demt.models.variants import PACKAGED

ROOT = Path(__file__).parents[1]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
NOTICE = "demt/models/packaged/licenses/NOTICE.md"
LICENCES = ["LICENSE", "demt/models/packaged/licenses/Apache-2.0.txt", NOTICE, "docs/photographs.md"]
# What is needed to build, without what builds and tests leave behind.
BUILT_FROM = [
    *("demt", "docs", "examples", "tests", ".github"),
    *("LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", ".gitignore", ".pre-commit-config.yaml"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel built from it, of a copy of the project with some litter in it."""
    folder = tmp_path_factory.mktemp("release")
    copy, out = folder / "project", folder / "dist"
    copy.mkdir()
    for name in BUILT_FROM:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    for litter in ("demt/__pycache__/cli.pyc", "site/index.html", "predictions/photo.npz", "runs/mine/last/state.pt"):
        (copy / litter).parent.mkdir(parents=True, exist_ok=True)
        (copy / litter).write_bytes(b"litter")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built):
    with zipfile.ZipFile(built / f"demt-{demt.__version__}-py3-none-any.whl") as file:
        yield file


def below(folder):
    """The files of a folder of the project."""
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
    return {name for name in found if "__pycache__" not in name}


def test_the_wheel_has_the_package_and_nothing_else(wheel):
    info = f"demt-{demt.__version__}.dist-info"
    expected = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    expected |= {f"{info}/licenses/{name}" for name in LICENCES}
    assert set(wheel.namelist()) == below("demt") | expected


def test_the_wheel_is_as_large_as_the_pages_say(built):
    size = next(built.glob("*.whl")).stat().st_size
    assert size <= 25e6
    page = (ROOT / "docs/versions.md").read_text(encoding="utf-8")
    stated = int(re.search(r"The wheel has (\d+) MB", page)[1])
    assert abs(size / 1e6 - stated) <= 1


def test_the_wheel_says_what_it_needs_and_its_licences(wheel):
    said = email.message_from_bytes(wheel.read(f"demt-{demt.__version__}.dist-info/METADATA"))
    assert said["Version"] == demt.__version__
    assert said["License-Expression"] == "MIT AND Apache-2.0"
    assert sorted(said.get_all("License-File")) == sorted(LICENCES)
    assert said["Requires-Python"] == ">=3.10"
    page = (ROOT / "docs/versions.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.M)) == sorted(said.get_all("Provides-Extra"))


def test_the_licence_of_every_packaged_file_of_weights_is_stated(wheel):
    notice = (ROOT / NOTICE).read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| (?:MIT|Apache-2\.0) \|", notice, re.M)
    packaged = {Path(name).name for name in wheel.namelist() if name.endswith(".safetensors")}
    assert set(rows) == packaged == {path.name for path in PACKAGED.values()}


def test_the_sdist_has_tests_and_pages_and_no_litter(built):
    with tarfile.open(built / f"demt-{demt.__version__}.tar.gz") as file:
        names = {member.name.partition("/")[2] for member in file.getmembers() if member.isfile()}
    files = {name for name in BUILT_FROM if (ROOT / name).is_file()}
    assert names == files.union({"PKG-INFO"}, *(below(name) for name in BUILT_FROM if name not in files))


def test_version_and_changelog_agree():
    assert re.fullmatch(r"\d+\.\d+\.\d+", demt.__version__)
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(demt.__version__)} \(\d{{4}}-\d\d-\d\d\)", headings[1])


@pytest.mark.parametrize(
    ("tag", "right"), [(f"v{demt.__version__}", True), ("v99.0.0", False), (demt.__version__, False)]
)
def test_a_release_has_the_tag_of_its_version(tag, right):
    step = next(step for step in WORKFLOW["jobs"]["build"]["steps"] if "tag" in step.get("name", ""))
    found = subprocess.run(["bash", "-c", step["run"]], cwd=ROOT, env={**os.environ, "GITHUB_REF_NAME": tag})
    assert (found.returncode == 0) is right


def test_readme_leads_to_the_repository_where_pypi_shows_it(tmp_path):
    steps = WORKFLOW["jobs"]["build"]["steps"]
    step = next(step for step in steps if "README.md" in step.get("name", ""))
    assert steps.index(step) < next(i for i, step in enumerate(steps) if step.get("run") == "python -m build")
    shutil.copy(ROOT / "README.md", tmp_path)
    place = {"GITHUB_REPOSITORY": "someone/demt", "GITHUB_REF_NAME": "v1.2.3"}
    subprocess.run(["bash", "-c", step["run"]], cwd=tmp_path, env={**os.environ, **place}, check=True)
    before, after = ((folder / "README.md").read_text(encoding="utf-8") for folder in (ROOT, tmp_path))
    link = re.compile(r"(!?)\[[^]]*\]\(([^)]+)\)")
    found = link.findall(after)
    assert len(found) > 10
    assert len([mark for mark, _ in found if mark]) >= 1
    for (picture, target), (_, original) in zip(found, link.findall(before), strict=True):
        expected = f"https://github.com/someone/demt/{'raw' if picture else 'blob'}/v1.2.3/{original}"
        assert target == (original if original.startswith("https://") else expected)
    assert link.sub("", after) == link.sub("", before)


def test_tags_of_versions_start_a_release():
    # YAML 1.1 takes `on` for true. In GitHub's patterns as in regular expressions, + repeats what is before it.
    [pattern] = WORKFLOW[True]["push"]["tags"]
    pattern = pattern.replace(".", r"\.")
    assert re.fullmatch(pattern, f"v{demt.__version__}")
    assert not any(re.fullmatch(pattern, tag) for tag in ("v1", "1.0.0", "v1.0.0rc1", "v1x0x0"))


def test_nothing_is_published_untested_or_with_a_stored_password():
    jobs = WORKFLOW["jobs"]
    assert set(jobs["publish"]["needs"]) == {"tests", "build"}
    assert jobs["tests"]["uses"] == "./.github/workflows/ci.yml"
    assert "workflow_call" in yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))[True]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["environment"]["name"] == "pypi"
    assert "with" not in jobs["publish"]["steps"][-1]
    assert "secrets" not in (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
