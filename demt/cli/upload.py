"""What `demt publish` does: it checks a saved model and puts it on the Hugging Face Hub with its card."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from demt.files import file_sha256
from demt.hub.card import PICTURE, ModelCard, write_card
from demt.hub.folder import CARD, CONFIG, WEIGHTS
from demt.hub.remote import HUB, download, push
from demt.models import MultiTaskModel
from demt.released.cache import SOURCE

_FILES = {CONFIG, WEIGHTS, CARD, PICTURE}
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/\w[\w.-]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """What would be uploaded.

    Args:
        folder: Holds exactly the files to upload; gone when the context ends.
        repo_id: Where to.
        model: The model, as it was loaded from the folder.
        card: Text of the model card.
        sha256: Of model.safetensors.
        left_out: Names of files of the user's folder that are not uploaded.
        warnings: What a reader of the card would miss.
    """

    folder: Path
    repo_id: str
    model: MultiTaskModel
    card: str
    sha256: str
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]


@contextmanager
def prepared(folder: str | PathLike[str], repo_id: str, card: ModelCard) -> Iterator[Prepared]:
    """Check a saved model and lay out what to upload: its two files as they are, and a card.

    The model must load strictly, run on images of two sizes and give finite logits, and know its licence.

    Args:
        folder: What `save_pretrained` wrote.
        repo_id: ``"org/name"``.
        card: What the card says beside what the model itself knows; `licence` is needed.

    Raises:
        FileNotFoundError: if the folder, one of its files or the card's picture is missing.
        ValueError: if the model fails a check.
        OSError: if a file cannot be read or copied.
    """
    path = Path(folder)
    if not _REPOSITORY.fullmatch(repo_id):
        raise ValueError(f"Expected the repository as ORG/NAME, got {repo_id!r}")
    if not card.licence:
        raise ValueError("The weights need a licence, as the Hub names it: --licence mit, cc-by-nc-4.0, other, …")
    if (path / SOURCE).exists():
        raise ValueError(
            f"{str(path)!r} was converted from the authors' checkpoint, which is theirs to publish: their repositories "
            f"state no licence. With their permission, remove {SOURCE} from the folder first"
        )
    model = MultiTaskModel.from_pretrained(path)
    _check_runs(model)
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(path / name, staged / name)
        count = sum(parameter.numel() for parameter in model.parameters())
        write_card(staged, card, model.config, model.pretrained_cfg, count, f"{HUB}{repo_id}")
        yield Prepared(
            folder=staged,
            repo_id=repo_id,
            model=model,
            card=(staged / CARD).read_text(encoding="utf-8"),
            sha256=file_sha256(staged / WEIGHTS),
            left_out=tuple(sorted(p.name for p in path.iterdir() if p.name not in _FILES)),
            warnings=tuple(_warnings(card, model)),
        )


def upload(what: Prepared, *, private: bool | None = None) -> str:
    """Upload in one commit, read it back from the Hub, and return the commit's hash.

    Raises:
        OSError: if the Hub does not answer or refuses.
        ValueError: if what comes back is not what was sent.
    """
    commit = push(what.folder, what.repo_id, private=private)
    with tempfile.TemporaryDirectory() as cache:
        back = download(what.repo_id, revision=commit.oid, sha256=what.sha256, cache_dir=cache)
        if (back / CONFIG).read_bytes() != (what.folder / CONFIG).read_bytes():
            raise ValueError(f"{CONFIG} of {what.repo_id}@{commit.oid} is not the one that was uploaded")
    return commit.oid


def read_results(path: Path) -> dict[str, float]:
    """Results by ``"task/metric"`` from a JSON file, as they are or under ``"results"``.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds anything else.
    """
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not valid JSON: {error}") from error
    values = values.get("results", values) if isinstance(values, Mapping) else values
    numbers = isinstance(values, Mapping) and all(type(value) in (int, float) for value in values.values())
    if not numbers or not values:
        raise ValueError(f'Expected {str(path)!r} to hold numbers by "task/metric", as MultiTaskMetrics computes them')
    return {str(name): float(value) for name, value in values.items()}


def _check_runs(model: MultiTaskModel) -> None:
    for size in ((64, 96), (97, 65)):
        with torch.no_grad():
            outputs = model(torch.zeros(1, model.config.in_chans, *size))
        for name, logits in outputs.items():
            if not torch.isfinite(logits).all():
                raise ValueError(f"The model gives NaN or infinite logits of {name!r}")


def _warnings(card: ModelCard, model: MultiTaskModel) -> Iterator[str]:
    if not card.results:
        yield "the card states no results: --results FILE.json --protocol TEXT"
    elif missing := [name for name in model.tasks if not any(key.startswith(f"{name}/") for key in card.results)]:
        yield f"the card states no results of {', '.join(missing)}"
    if not card.training_data:
        yield "the card does not say what the model was trained on: --training-data TEXT"
    if not card.initial_weights:
        yield "the card does not say what training started from: --initial-weights TEXT"
    if card.picture is None:
        yield "the card has no picture of predictions: --picture FILE, such as the panel that demt predict writes"
