"""A web page to try models on: what `demt demo` serves. Needs gradio: ``pip install 'demt[demo]'``."""

from demt.inference.demo.app import build_demo, launch
from demt.inference.demo.folder import own_folder
from demt.inference.demo.result import Result, read_photograph

__all__ = ["Result", "build_demo", "launch", "own_folder", "read_photograph"]
