"""The documentation site: it builds without a warning, its links lead somewhere, and it has everything public."""

import importlib
import inspect
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from sphinx.util.inventory import InventoryFile

from demt.models.variants import SCORES
from demt.registry import list_tags

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

from reading_order import sections  # noqa: E402
from zoo import architectures, results, tasks  # noqa: E402


def build(folder, *options):
    """Build the site; warnings are errors."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", *options]
    return subprocess.run(
        [*command, "-d", str(folder / "doctrees"), str(DOCS), str(folder / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site without the costs of the models, which take a minute to count, and with notebooks that have not run."""
    folder = tmp_path_factory.mktemp("site")
    built = build(folder, "-D", "zoo_costs=0")
    assert built.returncode == 0, built.stderr
    return folder / "site"


class Links(HTMLParser):
    """What a page links to, and the anchors it has."""

    def __init__(self, page):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[name] for name in ("href", "src") if attrs.get(name)]
        self.anchors |= {attrs[name] for name in ("id", "name") if attrs.get(name)}


def broken(pages):
    """Internal links that lead nowhere."""
    for page, found in pages.items():
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists():
                yield f"{page.name}: {link}"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{page.name}: {link} (no such anchor)"


def test_links_of_the_site_lead_somewhere(site):
    pages = {page.resolve(): Links(page) for page in site.rglob("*.html")}
    assert len(pages) > 40
    assert not list(broken(pages))


def test_the_page_for_browsers_is_linked_where_it_is(site, tmp_path):
    """Found by a build with a stand-in for the page: a build of that one page alone."""
    assert "browser/index.html" not in Links(site / "browser.html").links
    extra = tmp_path / "extra/browser"
    extra.mkdir(parents=True)
    (extra / "index.html").write_text("the page")
    source = tmp_path / "docs"
    source.mkdir()
    shutil.copy(DOCS / "browser.md", source)
    shutil.copy(DOCS / "browser.png", source)
    (source / "index.md").write_text("# Start\n\n```{toctree}\nbrowser\n```\n")
    (source / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(DOCS / '_ext')!r})\nextensions = ['myst_parser', 'browser']\n"
    )
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-D",
        "html_extra_path=../extra",
        str(source),
        str(tmp_path / "site"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert "browser/index.html" in Links(tmp_path / "site/browser.html").links
    assert (tmp_path / "site/browser/index.html").read_text() == "the page"


def test_broken_links_are_found(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<p id="here"><a href="#here"/><a href="#gone"/><img src="no.png"/><a href="https://a.b/c"/>')
    assert list(broken({page: Links(page)})) == ["page.html: #gone (no such anchor)", "page.html: no.png"]


PUBLIC = [
    "demt",
    *(f"demt.{name}" for name in ("layers", "losses", "metrics", "data", "ops", "export", "train", "hub")),
]


@pytest.mark.parametrize("module", PUBLIC)
def test_the_reference_has_every_public_name(site, module):
    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, uri: uri)
    # Older versions of Sphinx give the dict itself.
    kinds = getattr(inventory, "data", inventory)
    entries = {name for kind, found in kinds.items() if kind.startswith("py:") for name in found}
    part = importlib.import_module(module)
    public = {name for name in part.__all__ if not inspect.ismodule(getattr(part, name))}
    assert {f"{module}.{name}" for name in public} <= entries


def test_entries_of_constants_say_what_they_are(site):
    for page, name, said in [
        ("layers", "demt.layers.NECKS", "Necks by the names"),
        ("hub", "demt.hub.HUB", "which stands before the id of a repository"),
        ("more", "demt.tasks.DATASETS", ""),
    ]:
        text = (site / f"reference/{page}.html").read_text(encoding="utf-8")
        start = text.index(f'id="{name}"')
        entry = text[start : text.index("</dl>", start)]
        assert said in re.sub(r"<[^>]+>", "", entry)
        assert len(re.sub(r"<[^>]+>", "", entry[: entry.index("</dt>")])) < 200


def test_every_entry_links_to_its_source(site):
    reference = Links(site / "reference/layers.html")
    assert "../_modules/demt/layers/blocks.html#ChannelMixer" in reference.links


def test_the_reading_order_has_every_page_once():
    order = sections((DOCS / "README.md").read_text(encoding="utf-8"))
    listed = [page for rows in order.values() for page, _ in rows]
    own = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.glob("*.md")} - {"README", "index"}
    notebooks = {f"notebooks/{page.stem}" for page in (DOCS / "notebooks").glob("*.md")}
    assert sorted(listed) == sorted({*own, *notebooks, "reference/index"})


def test_navigation_follows_the_reading_order(site):
    order = sections((DOCS / "README.md").read_text(encoding="utf-8"))
    page = (site / "faq.html").read_text(encoding="utf-8")
    sidebar = page[page.index('class="sidebar-tree"') :]
    captions = [sidebar.index(f'<span class="caption-text">{heading}</span>') for heading in order]
    assert captions == sorted(captions)


def test_the_zoo_has_every_model_and_result():
    assert {row[0] for row in architectures(costs=False)} == {f"`{arch}`" for arch in list_tags()}
    assert [row[0] for row in tasks()] == ["`nyud`", "`pascal`", "`cityscapes`", "`rooms`", "`photos`"]
    head, rows = results("nyud")
    assert head[1:5] == ["semseg mIoU % ↑", "depth RMSE m ↓", "normals mean error ° ↓", "edge odsF % ↑"]
    found = {row[0]: row for row in rows}
    # Table 1 of the DeMT paper.
    assert found["`demt_swin_tiny.nyud`"][1:7] == ["46.36", "0.5871", "20.6", "76.9", "32.07", "100.7"]
    _, rows = results("rooms", own=True)
    assert {row[0] for row in rows} == {f"`{name}`" for name in SCORES}


def test_the_site_is_published_as_the_pages_say():
    workflow = yaml.safe_load((ROOT / ".github/workflows/docs.yml").read_text(encoding="utf-8"))
    run, links = ([s["run"] for s in workflow["jobs"][job]["steps"] if "run" in s] for job in ("build", "links"))
    readme = (DOCS / "README.md").read_text(encoding="utf-8")
    assert "pip install -e '.[docs]' && sphinx-build docs site" in readme
    assert run == [
        "pip install -e '.[docs]'",
        "demt browser demt_lite.photos build/extra/browser",
        "sphinx-build -W --keep-going -D nb_execution_mode=force -D html_extra_path=../build/extra docs site",
    ]
    assert links == ["pip install -e '.[docs]'", "sphinx-build -b linkcheck -D zoo_costs=0 docs links"]


@pytest.mark.slow
def test_the_site_builds_with_costs_and_notebooks_that_run(tmp_path):
    built = build(tmp_path, "-D", "nb_execution_mode=force")
    assert built.returncode == 0, built.stderr
