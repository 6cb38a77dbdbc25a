"""The start page's cards and the navigation, made from the tables of docs/README.md."""

import re
from pathlib import Path

ROW = re.compile(r"^\| \[[^\]]+\]\((?P<page>[\w/]+)\.md\) \| (?P<about>.+) \|$", re.M)


def sections(readme):
    """By the headings of docs/README.md, the pages of the table under each and what they are about."""
    parts = re.split(r"^## (.+)\n", readme, flags=re.M)
    found = {heading: ROW.findall(text) for heading, text in zip(parts[1::2], parts[2::2])}
    return {heading: rows for heading, rows in found.items() if rows}


def cards(order):
    """A card for each section, with links to its pages."""
    lines = ["::::{grid} 1 1 2 2", ":gutter: 3", ""]
    for heading, rows in order.items():
        lines += [
            f":::{{grid-item-card}} {heading}",
            *(f"- [](/{page}.md): {about}" for page, about in rows),
            ":::",
            "",
        ]
    return "\n".join([*lines, "::::"])


def navigation(order):
    """A table of contents for each section, which the sidebar shows."""
    trees = []
    for heading, rows in order.items():
        pages = "\n".join(page for page, _ in rows)
        trees.append(f"```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{pages}\n```")
    return "\n\n".join(trees)


def _fill(app, docname, source):
    if docname == "index":
        order = sections((Path(app.srcdir) / "README.md").read_text(encoding="utf-8"))
        source[0] = source[0].replace("<!-- pages -->", f"{cards(order)}\n\n{navigation(order)}")


def _depend(app, env, added, changed, removed):
    """The start page is made again with every build: docs/README.md is no page that Sphinx watches."""
    return ["index"]


def setup(app):
    app.connect("source-read", _fill)
    app.connect("env-get-outdated", _depend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
