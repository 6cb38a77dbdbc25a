"""Entries of constants that a package passes on say what stands beside them where they are defined."""

import sys

from sphinx.errors import PycodeError
from sphinx.pycode import ModuleAnalyzer


def _comment(name, value):
    """The ``#:`` comment of a constant, from the module of demt that assigns it."""
    for module, found in sorted(sys.modules.items()):
        if module.partition(".")[0] == "demt" and getattr(found, name, None) is value:
            try:
                comments = ModuleAnalyzer.for_module(module).find_attr_docs()
            except PycodeError:
                continue
            if ("", name) in comments:
                return comments["", name]
    return None


def _fill(app, what, name, value, options, lines):
    if what == "data" and (comment := _comment(name.rpartition(".")[2], value)):
        lines[:] = comment


def setup(app):
    app.connect("autodoc-process-docstring", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
