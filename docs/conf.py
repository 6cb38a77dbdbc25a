"""The documentation site: ``sphinx-build -W docs site`` with ``pip install -e '.[docs]'``.

Its pages are those of this folder. Which there are and in which order, docs/README.md says, here and on GitHub.
"""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

import demt  # noqa: E402

project = "demt"
author = "The demt authors"
copyright = author
version = release = demt.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "browser",
    "commands",
    "constants",
    "equations",
    "names",
    "reading_order",
    "zoo",
]
exclude_patterns = ["README.md", "_build"]
source_suffix = {".md": "myst-nb", ".rst": "restructuredtext"}

html_theme = "furo"
html_title = f"demt {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_search_scorer = str(DOCS / "_ext/scorer.js")
pygments_style, pygments_dark_style = "friendly", "github-dark"
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# The notebooks run where the site is published and in the slow tests: -D nb_execution_mode=force
nb_execution_mode = "off"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 1200
nb_output_stderr = "remove"

# The links to other sites, in the workflow: sphinx-build -b linkcheck
linkcheck_ignore = [r"https://example\.org/"]
linkcheck_retries, linkcheck_timeout = 3, 30

autodoc_default_options = {"members": True, "no-value": True, "show-inheritance": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_custom_sections = [("Shape", "notes_style")]
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "py:obj"
nitpicky = True
# One class has two names where `demt` exports it.
suppress_warnings = ["ref.python"]
# Names of other packages lead nowhere here; those of demt must lead somewhere.
nitpick_ignore_regex = [("py:.*", r"(?!demt\.).*")]
