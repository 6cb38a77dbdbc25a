"""References to names that the reference lists elsewhere, or not at all.

`demt.factory.create_model` leads to `demt.create_model`. A name that exists but has no entry stays plain text; only one
that does not exist is a warning.
"""

import pkgutil
import re


def _found(name):
    """The object that a dotted name stands for, or None."""
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return None


def _resolve(app, env, node, contnode):
    name = node.get("reftarget", "")
    wanted = _found(name) if node.get("refdomain") == "py" and name.startswith("demt.") else None
    if wanted is None:
        return None
    domain, last = env.domains["py"], name.rpartition(".")[2]
    for entry in domain.objects:
        if entry.rpartition(".")[2] == last and _found(entry) is wanted:
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", entry, node, contnode)
    return contnode


def _drop_ways_back(app, pagename, templatename, context, doctree):
    """Pages of source link back to entries by the names of the modules, where an entry may not be."""
    if pagename.startswith("_modules/"):
        context["body"] = re.sub(r'<a class="viewcode-back".*?</a>', "", context["body"])


def setup(app):
    app.connect("missing-reference", _resolve)
    app.connect("html-page-context", _drop_ways_back)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
