"""The config entry of a model, told from its files."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lpsteps.artifacts import read_json
from lpsteps.data.checkpoints import (
    ParameterCount,
    check_tokenizer_code,
    count_parameters,
    count_shapes,
)
from lpsteps.data.hub import hub_answers
from lpsteps.errors import LpstepsError, first_line
from lpsteps.machine_faults import raise_machine_fault
from lpsteps.models.families import check_family, check_remote_code, model_size

_SMALL_FILES = ["*.json", "*.model", "*.jinja", "*.py", "merges.txt", "vocab.txt"]


def describe_model(model: str, trusted: bool = False) -> str:
    """Return the entry of a model for config/models.yaml.

    Of a repository only the configuration, the headers of the weights and the tokenizer are read.

    Args:
        model: A folder, or a repository ``owner/name`` on the Hub.
        trusted: Whether code that comes with the tokenizer may run.

    Raises:
        LpstepsError: There is no such model, the Hub refuses, or the model cannot be pruned.
    """
    folder = Path(model)
    if folder.is_dir():
        config = read_json(folder / "config.json")
        source = {"path": model}
        return _entry(folder, config, count_parameters(folder), source, trusted)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        revision, shapes = _from_hub(model, folder)
        config = read_json(folder / "config.json")
        count = count_shapes(shapes, config, model)
        return _entry(folder, config, count, {"repo": model, "revision": revision}, trusted)


def _from_hub(repo: str, folder: Path) -> tuple[str, Mapping[str, Sequence[int]]]:
    """Fetch the small files of a repository; return its commit and the shapes of its tensors."""
    from huggingface_hub import HfApi, get_safetensors_metadata, snapshot_download

    with hub_answers(repo, "its last commit", "name a local folder"):
        revision = str(HfApi().model_info(repo).sha)
        snapshot_download(
            repo,
            revision=revision,
            local_dir=folder,
            allow_patterns=_SMALL_FILES,
            ignore_patterns=["*/*"],
        )
        metadata = get_safetensors_metadata(repo, revision=revision)
    shapes = {
        name: tensor.shape
        for file in metadata.files_metadata.values()
        for name, tensor in file.tensors.items()
    }
    return revision, shapes


def _entry(
    folder: Path,
    config: Mapping[str, Any],
    count: ParameterCount,
    source: Mapping[str, str],
    trusted: bool,
) -> str:
    where = f"{next(iter(source.values()))}/config.json"
    check_family(config, where)
    check_remote_code(config, where, trusted)
    if trusted:
        check_tokenizer_code(folder)
    title = next(iter(source.values())).rstrip("/").rpartition("/")[2]
    entry: dict[str, Any] = {
        "title": title,
        "n_layers": model_size(config, "n_layers", where),
        "hidden_size": model_size(config, "hidden_size", where),
        "parameters": count.total,
        "layer_parameters": count.layer,
        "vocabulary": model_size(config, "vocabulary", where),
        "model_type": config["model_type"],
        "source": dict(source),
        "add_bos": _adds_bos(folder, trusted),
    }
    # All of them leave their working regime where position 0 holds another token: Gemma 2 9B has a
    # perplexity of 2645 on LAMBADA then (lm-evaluation-harness, PR 2049).
    if "gemma" in config["model_type"]:
        entry["bos_in_windows"] = True
    if trusted and "auto_map" in config:
        entry["trust_remote_code"] = True
    name = re.sub(r"[^a-z0-9._+-]+", "-", title.lower()).strip("-._+")
    return yaml.safe_dump({name: entry}, sort_keys=False)


def _adds_bos(folder: Path, trusted: bool) -> bool:
    """Return whether the model's tokenizer puts its BOS token in front of a text."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trusted
        )
    except (OSError, ValueError, ImportError) as error:
        raise_machine_fault(error)
        raise LpstepsError(f"tokenizer: cannot be loaded ({first_line(error)})") from error
    ids = tokenizer("text")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
