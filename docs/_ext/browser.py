"""A link to the page that `demt browser` wrote, where the site is built with it: ``-D html_extra_path=FOLDER``.

FOLDER holds ``browser``, which Sphinx copies beside the other pages.
"""


def _link(app, docname, source):
    if docname == "browser" and app.config.html_extra_path:
        source[0] = source[0].replace("`browser/index.html`", '<a href="browser/index.html">this page</a>')


def setup(app):
    app.connect("source-read", _link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
