"""`python -m demt`: the `demt` command."""

from demt.cli import app

app()
