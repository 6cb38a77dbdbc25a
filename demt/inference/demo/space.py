"""The page as a folder for a Hugging Face Space, whose server builds and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import SpaceCardData

from demt import __version__
from demt.factory import resolve
from demt.files import new_folder
from demt.hub.remote import HUB

_APP = '''"""All tasks of demt models on photographs."""

import demt
from demt.inference.demo import launch

NAMES = [
{names}
]

if __name__ == "__main__":
    models = {{name: demt.create_model(name, pretrained=True).eval() for name in NAMES}}
    # The Space's GRADIO_SERVER_NAME says where to listen.
    launch(models, host=None, max_upload={max_upload})
'''
_README = """---
{metadata}
---

# Dense prediction

Segmentation, depth, normals and more of a photograph, from one network: {names}, run by demt {version}.
Photographs stay on this server, for an hour.
"""


def write_space(folder: Path, names: Sequence[str], *, max_upload: int = 32 * 2**20) -> list[Path]:
    """Write ``app.py``, ``requirements.txt`` and ``README.md`` of a Space to a new folder.

    Args:
        folder: A folder that does not exist yet, or is empty.
        names: Names of models with weights, or ``"hf-hub:ORG/NAME"``: what a Space can load.
        max_upload: Largest file that the page takes, in bytes.

    Returns:
        The files.

    Raises:
        FileExistsError: if the folder exists and is not empty.
        ValueError: for models without weights, or whose weights are on this machine alone.
        FileNotFoundError, OSError: see `demt.factory.resolve`.
        ImportError: if gradio, whose version the Space gets, is missing.
    """
    try:
        import gradio
    except ImportError:
        raise ImportError("A Space needs gradio: pip install 'demt[demo]'") from None
    if not names:
        raise ValueError("Expected `names` of at least one model, got none")
    for name in names:
        _check_reachable(name)
    metadata = SpaceCardData(
        title="demt",
        emoji="🪟",
        colorFrom="yellow",
        colorTo="purple",
        sdk="gradio",
        sdk_version=gradio.__version__,
        app_file="app.py",
        models=[name.removeprefix(HUB).partition("@")[0] for name in names if name.startswith(HUB)] or None,
        tags=["semantic-segmentation", "depth-estimation", "multi-task-learning"],
    )
    files = {
        "app.py": _APP.format(names="\n".join(f'    "{name}",' for name in names), max_upload=max_upload),
        "requirements.txt": f"demt[demo]=={__version__}\n",
        "README.md": _README.format(metadata=metadata.to_yaml(), names=", ".join(names), version=__version__),
    }
    with new_folder(folder) as partial:
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def _check_reachable(name: str) -> None:
    found = resolve(name)
    if found.weights is None:
        raise ValueError(f"There are no weights for {name!r} yet: a Space would have nothing to load")
    if found.weights.place in ("folder", "authors"):
        raise ValueError(
            f"A Space cannot load {name!r}, whose weights are neither in the package nor on the Hub: put them there "
            "(demt publish) and give hf-hub:ORG/NAME"
        )
