"""Models as folders, and as repositories on the Hugging Face Hub, by the methods that its users know.

They are ``huggingface_hub.ModelHubMixin``'s by name and argument, and its own calls make the repository and upload. The
class itself is not a base here: what it writes is not written whole, it removes a ``config.json`` that is there before
(a run's), and it replaces a model card that somebody has edited on the Hub.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch

from gvit.errors import InputError, first_line
from gvit.files import check_writable, replacing
from gvit.models.hub_files import CARD_NAME, CONFIG_NAME, Told, config, is_generated, is_saved_config
from gvit.models.pretrained import (
    WEIGHTS_NAME,
    download,
    find_pretrained,
    is_on_hub,
    is_repository,
    network_errors,
    on_hub,
)

_Model = TypeVar("_Model", bound="HubMixin")


class HubMixin:
    """``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` of ``ImageClassifier``."""

    # What writes and reads models knows their classes, which have this one as a base: hence it is imported by name.

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        about: str = "",
        license: str | None = None,
        evaluation: str | Path | None = None,
    ) -> None:
        """Write the model into a folder, for ``gvit.load_model``, the Hub and ``timm.create_model("local-dir:...")``.

        ``model.safetensors`` holds all that gvit needs. ``config.json`` is for timm and for the Hub, which counts
        downloads by it. ``README.md`` is the model card; one that somebody has written stays.

        Args:
            save_directory: a folder, which is made where there is none.
            dtype: of the weights in the file, see ``gvit.save_model``.
            about: what the model is and what it was trained on, for the card, as Markdown.
            license: of the weights, by the Hub's name of it (``apache-2.0``), for the card.
            evaluation: an ``evaluation.json`` of this model (``gvit evaluate`` writes it), or the run folder that it is
                in: its measures are for the card.

        Raises:
            InputError: the folder holds a run, or can't be written; or the model or its evaluation can't be used.
                Nothing is written then.
        """
        folder = Path(save_directory)
        # by its name alone: where it lies here is nobody else's business
        _save(self, folder, dtype, Told(folder.absolute().name, folder.name, about, license, evaluation))

    @classmethod
    def from_pretrained(
        cls: type[_Model],
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> _Model:
        """A trained model of this class: ``GViT``, ``ViT``, or ``ImageClassifier`` for either.

        Args:
            pretrained_model_name_or_path: what ``gvit.load_model`` takes, or ``OWNER/NAME`` on the Hub, where no folder
                of that name is here.
            revision: branch, tag or commit, of a model on the Hub.
            token: for the Hub; None for that of ``hf auth login`` or ``HF_TOKEN``.
            cache_dir: where downloads are kept; None for the Hub's own cache.
            force_download: even what is in the cache.
            local_files_only: what is in the cache, and nothing else.

        Returns:
            the model in evaluation mode, on the CPU, in float32.

        Raises:
            InputError: as ``gvit.load_model``; or the model is of another class.
        """
        place, name = pretrained_model_name_or_path, str(pretrained_model_name_or_path)
        load_model = import_module("gvit.models.weights").load_model
        repository = on_hub(name) if is_on_hub(name) else None
        if repository is None and isinstance(place, str) and not Path(place).exists():
            bare = place.partition("@")[0]
            if is_repository(bare) and find_pretrained(place) is None:
                repository = place
        if repository is None:
            if revision is not None:
                raise InputError(
                    f"{place}: revision={revision!r} is of models on the Hub, and this is none there"
                )
            model = load_model(place)
        else:
            if revision is not None:
                repository = f"{repository.partition('@')[0]}@{revision}"
            try:
                file = download(
                    *(repository, WEIGHTS_NAME),
                    token=token,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                )
            except InputError as error:
                here = "" if is_on_hub(name) else f"{place}: no such folder here; "
                raise InputError(f"{here}{error.args[0]}") from error
            model = load_model(file)
        if not isinstance(model, cls):
            kind = type(model).__name__
            raise InputError(
                f"{place}: holds {model.card.name or 'a model'} of class {kind}, not {cls.__name__}; "
                f"{kind}.from_pretrained or gvit.load_model reads it"
            )
        return model

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload a model of gvit",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool = False,
        dtype: torch.dtype = torch.float32,
        about: str = "",
        license: str | None = None,
        evaluation: str | Path | None = None,
    ) -> str:
        """Upload what ``save_pretrained`` writes, in one commit; ``gvit.load_model("hf-hub:OWNER/NAME")`` reads it.

        A model card that somebody has edited on the Hub stays.

        Args:
            repo_id: ``OWNER/NAME``; the repository is made where there is none.
            commit_message: the commit's.
            private: whether a repository that is made is private; None for the owner's usual.
            token: one that may write; None for that of ``hf auth login`` or ``HF_TOKEN``.
            branch: of the repository; None for ``main``.
            create_pr: as a pull request.
            dtype: as of ``save_pretrained``.
            about: as of ``save_pretrained``.
            license: as of ``save_pretrained``.
            evaluation: as of ``save_pretrained``.

        Returns:
            the address of the commit, or of the pull request.

        Raises:
            InputError: the name can't be one, there is no token or it may not do this, or the Hub can't be reached; or
                as ``save_pretrained``. The Hub has all files of the commit then, or none.
        """
        import huggingface_hub
        from huggingface_hub import errors
        from huggingface_hub.utils import validate_repo_id

        name = on_hub(repo_id)
        shown = f"hf-hub:{name}"
        try:
            validate_repo_id(name)
        except errors.HFValidationError as error:
            raise InputError(f"{shown}: names on the Hub are OWNER/NAME ({first_line(error)})") from error
        if not is_repository(name):
            raise InputError(f"{shown}: names on the Hub are OWNER/NAME")
        if (token or huggingface_hub.get_token()) is None:
            raise InputError(f"{shown}: no token; run 'hf auth login', set HF_TOKEN, or give token=...")
        api = huggingface_hub.HfApi(token=token, library_name="gvit")
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            # before there is a repository: a model that can't be written leaves no empty one
            _save(self, folder, dtype, Told(name, shown, about, license, evaluation))
            try:
                api.create_repo(name, private=private, exist_ok=True)
                if _has_own_card(api, name, branch):
                    (folder / CARD_NAME).unlink()
                done = api.upload_folder(
                    repo_id=name,
                    folder_path=folder,
                    commit_message=commit_message,
                    revision=branch,
                    create_pr=create_pr,
                )
            except errors.RevisionNotFoundError as error:
                raise InputError(f"{shown}: the repository has no branch {branch!r}") from error
            except network_errors() as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                refused = "this token may not write there" if status in (401, 403) else "cannot be uploaded"
                raise InputError(f"{shown}: {refused} ({_reason(error)})") from error
        return str(done.pr_url or done.commit_url)


def _save(model: Any, folder: Path, dtype: torch.dtype, told: Told) -> None:
    """Write the three files, all or none."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder")
    known = folder / CONFIG_NAME
    if known.exists() and not is_saved_config(known):
        raise InputError(
            f"{folder}: holds a {CONFIG_NAME} that is no saved model's (a run's, it may be); name another folder"
        )
    texts = {CONFIG_NAME: config(model), CARD_NAME: told.card(model)}
    if not is_generated(folder / CARD_NAME):
        del texts[CARD_NAME]
    check_writable(folder)
    save_model = import_module("gvit.models.weights").save_model
    with _made(folder), ExitStack() as written:
        for name, text in texts.items():
            partial = written.enter_context(replacing(folder / name))
            partial.write_text(text, encoding="utf-8")
        save_model(model, folder / WEIGHTS_NAME, dtype=dtype)  # the others take their places after it


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder, which goes again if it was not there before and nothing comes into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    try:
        yield
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise


def _reason(error: BaseException) -> str:
    """What the Hub answered, which the first line of its errors leaves out."""
    answer = " ".join((getattr(error, "server_message", None) or "").split())
    return answer[:160] or first_line(error)


def _has_own_card(api: Any, name: str, branch: str | None) -> bool:
    """Whether a repository has a model card that somebody has written."""
    from huggingface_hub import errors

    try:
        return not is_generated(Path(api.hf_hub_download(name, CARD_NAME, revision=branch)))
    except errors.LocalEntryNotFoundError:  # the Hub can't be reached
        raise
    except errors.EntryNotFoundError:
        return False
