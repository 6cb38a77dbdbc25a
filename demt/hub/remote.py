"""Models on the Hugging Face Hub: one commit's config.json and model.safetensors, checked, in the Hub's cache."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from demt.files import file_sha256
from demt.hub.folder import CARD, CONFIG, WEIGHTS

#: ``"hf-hub:"``, which stands before the id of a repository where a model is named.
HUB = "hf-hub:"
#: ``"local-dir:"``, which stands before the path of a saved folder where a model is named.
LOCAL = "local-dir:"
# huggingface_hub 1.x stands on httpx and 2.x on httpx2, whose errors it lets through where no answer comes.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
_REPOSITORY = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/\w[\w.-]*)(?:@(?P<revision>.+))?")
_COMMIT = re.compile("[0-9a-f]{40}")
_logger = logging.getLogger("demt")


def model_folder(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    weights: bool = True,
) -> tuple[Path, str | None]:
    """Where config.json and model.safetensors of a model are on this machine, downloaded if needed.

    Args:
        source: A folder, or a repository ``"org/name"``, ``"org/name@revision"``; a folder of that name comes first.
            ``"hf-hub:"`` and ``"local-dir:"`` in front say which is meant.
        revision, token, cache_dir, local_files_only, force_download, weights: As for `download`; for repositories only.

    Returns:
        The folder, and the repository's id, or None for a folder of the user.
    """
    text = str(source)
    asked = text.removeprefix(HUB)
    match = None if text.startswith(LOCAL) or isinstance(source, PathLike) else _REPOSITORY.fullmatch(asked)
    if text.startswith(HUB) and not match:
        raise ValueError(f"Expected a repository {HUB}org/name or {HUB}org/name@revision, got {text!r}")
    folder = Path(text.removeprefix(LOCAL)).expanduser()
    if not match or (asked == text and folder.is_dir()):
        if revision is not None:
            raise ValueError(f"The folder {str(folder)!r} has no revisions: drop revision={revision!r}")
        return folder, None
    if revision is not None and match["revision"] is not None:
        raise ValueError(f"{text!r} names a revision already: drop revision={revision!r}")
    path = download(
        match["repo"],
        revision=revision or match["revision"],
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
        weights=weights,
    )
    return path, match["repo"]


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    sha256: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    weights: bool = True,
) -> Path:
    """Folder of the cache that holds config.json and model.safetensors of one commit of a repository.

    A commit that is in the cache is used without asking the Hub. Where the Hub does not answer, a branch or tag is
    its last cached state, and a warning says so.

    Args:
        repo_id: ``"org/name"``.
        revision: Commit, tag or branch; the default branch if None.
        sha256: Of model.safetensors, as hexadecimal digits.
        token: For private repositories; by default the one of ``hf auth login`` or `HF_TOKEN`.
        cache_dir: The cache; by default the one that `HF_HOME` sets.
        local_files_only: Use the cache only, as `HF_HUB_OFFLINE` does.
        force_download: Download again what is in the cache.
        weights: Whether model.safetensors is wanted; without, config.json alone is downloaded.

    Raises:
        FileNotFoundError: if there is no such repository, revision or file, or offline, if the cache lacks it.
        ConnectionError: if the Hub does not answer and the cache lacks it.
        ValueError: if model.safetensors has another checksum.
        OSError: if access is refused, the download breaks off, or the cache cannot be written.
    """
    api = HfApi(token=token, library_name="demt")
    wanted = _Wanted(api, repo_id, revision, str(cache_dir or constants.HF_HUB_CACHE), force_download, weights)
    offline = local_files_only or constants.HF_HUB_OFFLINE
    folder = None
    if offline or (_COMMIT.fullmatch(revision or "") and not force_download):
        folder = wanted.cached()
    if folder is None and offline:
        raise FileNotFoundError(
            f"{wanted} is not in the cache {wanted.cache!r}, and offline mode (HF_HUB_OFFLINE or local_files_only) "
            "does not ask the Hub: load it once while online"
        )
    if folder is None:
        with _readable_errors(wanted):
            folder = wanted.from_hub()
    if sha256 is not None:
        _check_sha256(folder / WEIGHTS, sha256, wanted)
    return folder


def push(
    folder: Path,
    repo_id: str,
    *,
    branch: str | None = None,
    token: str | bool | None = None,
    private: bool | None = None,
    commit_message: str = "Upload model",
    keep_card: bool = False,
) -> CommitInfo:
    """Upload all files of a folder in one commit; the repository and the branch are created if needed.

    Args:
        folder: What `save_pretrained` wrote.
        repo_id: ``"org/name"``.
        branch: The default branch if None.
        token: With write permission; by default the one of ``hf auth login`` or `HF_TOKEN`.
        private: Whether a new repository is private; by default as the organisation's settings say.
        commit_message: First line of the commit's message.
        keep_card: Do not change an existing model card in the repository.

    Raises:
        OSError: if the Hub does not answer or refuses.
    """
    api = HfApi(token=token, library_name="demt")
    with _readable_errors(_Wanted(api, repo_id, branch)):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if keep_card and api.file_exists(repo_id, CARD, revision=branch):
            files = [path for path in files if path != folder / CARD]
        # One commit: a reader never finds new weights beside an old configuration.
        operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
        return api.create_commit(repo_id, operations, commit_message=commit_message, revision=branch)


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """A model on the Hub, and the cache it comes through."""

    api: HfApi
    repo_id: str
    revision: str | None
    cache: str = ""
    force: bool = False
    weights: bool = True

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision}" if self.revision else self.repo_id

    def cached(self) -> Path | None:
        """The folder of the cache, if it has the files."""
        try:
            return self._files(cached=True)
        except LocalEntryNotFoundError:
            return None

    def from_hub(self) -> Path:
        """The folder of the cache, brought up to date."""
        try:
            # Fails at once where a download would try again for half a minute.
            info = self.api.model_info(self.repo_id, revision=self.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except _HTTP_ERROR as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise
            if self.force or (folder := self.cached()) is None:
                raise
            _logger.warning("%s does not answer: using the last cached state of %s", self.api.endpoint, self)
            return folder
        files = {file.rfilename for file in info.siblings or []}
        if missing := [name for name in (CONFIG, WEIGHTS) if name not in files]:
            raise FileNotFoundError(
                f"{self} has no {' and no '.join(missing)}, so it is not a demt model (which reads weights from "
                f"safetensors only); it has {sorted(files)[:8]}"
            )
        return self._files(cached=False)

    def _files(self, *, cached: bool) -> Path:
        config = self._file(CONFIG, self.revision, cached)
        if not self.weights:
            return config.parent
        # A branch may move between two downloads: both files are of the commit that the first one came from.
        return self._file(WEIGHTS, config.parent.name, cached).parent

    def _file(self, name: str, revision: str | None, cached: bool) -> Path:
        force = self.force and not cached
        path = self.api.hf_hub_download(
            self.repo_id,
            name,
            revision=revision,
            cache_dir=self.cache,
            local_files_only=cached,
            force_download=force,
        )
        return Path(path)


@contextmanager
def _readable_errors(wanted: _Wanted) -> Iterator[None]:
    """What can go wrong between here and the Hub, in one sentence that names the repair."""
    hub = wanted.api.endpoint
    try:
        yield
    except GatedRepoError:
        raise PermissionError(f"{wanted} is gated: accept its terms at {hub}/{wanted.repo_id}, then log in") from None
    except RepositoryNotFoundError:
        raise FileNotFoundError(
            f"No repository {wanted.repo_id!r} on {hub} and no folder of that name here; if it is private, log in "
            "with `hf auth login`, set HF_TOKEN or pass token="
        ) from None
    except RevisionNotFoundError:
        raise FileNotFoundError(
            f"{wanted.repo_id} has no revision {wanted.revision!r}; see {hub}/{wanted.repo_id}/commits"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        refused = f"{hub} answered {status} for {wanted}" + (
            f" ({error.server_message})" if error.server_message else ""
        )
        if status in (401, 403):
            raise PermissionError(f"{refused}; log in with `hf auth login` or pass token=") from None
        raise ConnectionError(refused) from None
    except (_HTTP_ERROR, json.JSONDecodeError, LocalEntryNotFoundError) as error:
        rest = f", and {wanted} is not in the cache {wanted.cache!r}" if wanted.cache else ""
        raise ConnectionError(
            f"{hub} does not answer, or broke off ({str(error) or type(error).__name__}){rest}: check the network and "
            "try again"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise OSError(
            error.errno,
            f"Cannot write {wanted} into the cache {wanted.cache!r} ({error}): make room, or give another place with "
            "cache_dir= or HF_HOME",
        ) from None


def _check_sha256(path: Path, expected: str, wanted: _Wanted) -> None:
    if (found := file_sha256(path)) != expected:
        raise ValueError(
            f"{WEIGHTS} of {wanted} has sha256 {found}, expected {expected}: nothing was loaded. If the "
            f"file was damaged, MultiTaskModel.from_pretrained({str(wanted)!r}, force_download=True) repairs the cache"
        )
