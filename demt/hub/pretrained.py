"""Saving, loading and sharing models."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import CommitInfo
from torch import Tensor, nn

from demt.config import ModelConfig, PretrainedCfg, each_channel
from demt.hub import remote as hub
from demt.hub.card import ModelCard, write_card
from demt.hub.folder import CARD, WEIGHTS, read_folder, write_folder
from demt.hub.load import check_shapes, check_state, check_tables, load_weights
from demt.tasks import Task

Model = TypeVar("Model", bound="PretrainedModel")


class PretrainedModel(nn.Module):
    """A network that is rebuilt from a `ModelConfig`: in folders and on the Hugging Face Hub.

    Subclasses are constructed as ``cls(config, pretrained_cfg=...)`` and have a `backbone`.
    """

    backbone: Any

    def __init__(self, config: ModelConfig, pretrained_cfg: PretrainedCfg) -> None:
        super().__init__()
        self.config = config
        self.pretrained_cfg = each_channel(pretrained_cfg, config.in_chans)

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks, in the order of the outputs."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | PathLike[str], *, card: ModelCard | None = None) -> None:
        """Write config.json, model.safetensors and a model card, README.md, to `folder`, which `from_pretrained` reads.

        Args:
            folder: Created if needed. Its files are replaced one by one, each when it is complete.
            card: What to say in the card; without it, an existing README.md is kept.

        Raises:
            ValueError: if the configuration would not rebuild the model, because it was changed afterwards (pruned,
                given adapters or other heads), or a weight is not finite: what is written could not be loaded.
            OSError: if a file cannot be written; the older one is still there then.
        """
        path = Path(folder)
        write_folder(path, self.config, self.pretrained_cfg, self._checked_state())
        if card is not None or not (path / CARD).exists():
            self._write_card(path, card, f"{hub.LOCAL}{path.absolute().name}")

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: ModelCard | None = None,
        branch: str | None = None,
        token: str | bool | None = None,
        private: bool | None = None,
        commit_message: str = "Upload model",
    ) -> CommitInfo:
        """Upload what `save_pretrained` writes to the Hugging Face Hub, in one commit.

        Args:
            repo_id: ``"org/name"``; created if needed.
            card: What to say in the model card; without it, one that the repository has stays.
            branch, token, private, commit_message: See `demt.hub.push`.

        Returns:
            huggingface_hub's `CommitInfo`; its `oid` is the revision to pin.

        Raises:
            ValueError: as `save_pretrained`.
            OSError: if the Hub does not answer or refuses.
        """
        state = self._checked_state()
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary)
            write_folder(path, self.config, self.pretrained_cfg, state)
            self._write_card(path, card, f"{hub.HUB}{repo_id}" + (f"@{branch}" if branch else ""))
            return hub.push(
                path,
                repo_id,
                branch=branch,
                token=token,
                private=private,
                commit_message=commit_message,
                keep_card=card is None,
            )

    @classmethod
    def from_pretrained(
        cls: type[Model],
        source: str | PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **overrides: Any,
    ) -> Model:
        """Load what `save_pretrained` or `push_to_hub` wrote, in eval mode. No code in the files is run.

        Args:
            source: A folder, or a repository of the Hub: ``"org/name"`` or ``"org/name@revision"``.
            revision, token, cache_dir, local_files_only, force_download: For repositories; see `demt.hub.download`.
            overrides: Changes of the configuration, e.g. `tasks`; weights that do not depend on them are kept.

        Raises:
            FileNotFoundError: if the folder, the repository, the revision or a file is missing.
            ValueError: if a file is damaged, or its content does not fit.
            OSError: if the Hub does not answer or refuses, or the cache cannot be written.
        """
        folder, repo_id = hub.model_folder(
            source,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        config, pretrained_cfg, state = read_folder(folder)
        name = str(folder / WEIGHTS)
        if repo_id is not None:
            pretrained_cfg = dataclasses.replace(pretrained_cfg, hf_hub_id=repo_id, revision=folder.name)
            name = f"{repo_id}@{folder.name[:10]}/{WEIGHTS}"
        return cls.with_weights(config.replace(**overrides), pretrained_cfg, state, name, trained=config).eval()

    @classmethod
    def with_weights(
        cls: type[Model],
        config: ModelConfig,
        pretrained_cfg: PretrainedCfg,
        state: Mapping[str, Tensor],
        source: str,
        *,
        trained: ModelConfig | None,
    ) -> Model:
        """The model of a configuration with the weights of one that may differ in tasks, channels and image size.

        Args:
            config: What to build.
            pretrained_cfg: How images are prepared.
            state: The weights.
            source: What messages call them.
            trained: The model they are of; None if that is not known.

        Raises:
            ValueError: if they do not fit, or one is not finite.
        """
        outline = None
        if trained is not None:
            outline = cls.outline(trained, source)
            check_shapes(state, outline.state_dict(), source)
        model = cls(config, pretrained_cfg=pretrained_cfg)
        load_weights(model, state, trained.tasks if trained else None, source, trained=outline)
        return model

    @classmethod
    def outline(cls: type[Model], config: ModelConfig, source: str) -> Model:
        """The model on the meta device: an untrusted configuration is checked before it takes memory.

        Raises:
            ValueError: if nothing can be built of `config`, which stands beside the weights that `source` names.
        """
        try:
            with torch.device("meta"):
                model = cls(config, pretrained_cfg=PretrainedCfg())
            check_tables(model)
            return model
        # Whatever timm and torch raise for numbers that fit no network, and a file may hold any.
        except Exception as error:
            raise ValueError(f"The configuration beside {source} describes no model: {error}") from error

    def _checked_state(self) -> dict[str, Any]:
        """The weights, which are those of the model that `from_pretrained` will build."""
        state = self.state_dict()
        try:
            check_state(state, self.outline(self.config, "this model").state_dict(), "this model")
        except ValueError as error:
            raise ValueError(
                f"Nothing was written, because the model could not be loaded again. {error}. If the model was changed "
                "after it was made (pruned, compiled in parts, given adapters or other layers), undo that before "
                "saving, or keep model.state_dict() by torch.save"
            ) from error
        return state

    def _write_card(self, folder: Path, card: ModelCard | None, source: str) -> None:
        count = sum(parameter.numel() for parameter in self.parameters())
        write_card(folder, card or ModelCard(), self.config, self.pretrained_cfg, count, source)
