"""The directive ``commands``: what every command of ``demt`` takes, from the command line itself."""

import typer.main
from sphinx.util.docutils import SphinxDirective
from typer.cli import get_docs_for_click

from demt.cli import app as command_line


class Commands(SphinxDirective):
    """All commands with their arguments and options."""

    def run(self):
        group = typer.main.get_command(command_line)
        _, _, commands = get_docs_for_click(obj=group, ctx=typer.Context(group), name="demt").partition("\n## ")
        return self.parse_text_to_nodes(f"## {commands}", allow_section_headings=True)


def setup(app):
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
