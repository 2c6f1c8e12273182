"""Folders with a model: taking one over from disk, and checking it against its config entry."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from pydantic import Field

from lpsteps.artifacts import read_json
from lpsteps.data.finite_weights import check_finite
from lpsteps.data.model_files import model_files, weight_files
from lpsteps.data.specs import Spec
from lpsteps.errors import LpstepsError
from lpsteps.models.families import check_pinned_code, model_size
from lpsteps.models.stored_buffers import is_buffer

_FIRST_LAYER = re.compile(r"(^|\.)(layers|h|blocks)\.0\.")


class ExpectedModel(Spec):
    """What the config says about a model, before its files are there to tell."""

    n_layers: int = Field(description="number of decoder layers")
    hidden_size: int = Field(description="width of the residual stream")
    parameters: int = Field(description="parameters of the whole model, tied ones once")
    layer_parameters: int = Field(description="parameters of one decoder layer")
    vocabulary: int | None = Field(default=None, description="tokens, null where not stated")
    model_type: str | None = Field(default=None, description="family, null where not stated")

    def sizes(self) -> dict[str, int]:
        """Return the stated sizes, for a manifest; the family is checked, and changes no byte."""
        return self.model_dump(exclude_none=True, exclude={"model_type"})


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters in a checkpoint: of the whole model and of its first decoder layer."""

    total: int
    layer: int


def take_local_model(source: Path, folder: Path, with_code: bool) -> None:
    """Give a model's files a second name in ``folder``, or copy them where that is impossible.

    Args:
        source: Folder with config.json, safetensors and tokenizer files.
        folder: An existing folder.
        with_code: Also take the Python files that some models bring along.

    Raises:
        LpstepsError: The folder is missing, has no config.json or no safetensors weights, or lacks
            one of them.
    """
    if not (source / "config.json").is_file():
        raise LpstepsError(
            f"{source}: no config.json there; expected the folder of a model; correct its path"
        )
    if not any(source.glob("*.safetensors")):
        pickled = sorted(path.name for path in (*source.glob("*.bin"), *source.glob("*.pt*")))
        found = f", only {pickled[0]}, which could run code when read" if pickled else ""
        raise LpstepsError(f"{source}: no *.safetensors there{found}; convert it to safetensors")
    for path in model_files(source, with_code=with_code):
        link_or_copy(path.resolve(), folder / path.name)


def link_or_copy(source: Path, target: Path) -> None:
    """Give ``source`` a second name, or copy it when the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def count_parameters(folder: Path) -> ParameterCount:
    """Count the parameters of a checkpoint from the headers of its safetensors files.

    An output matrix that is tied to the embeddings, and the rotary frequencies and attention masks
    that old checkpoints store, are not counted.

    Raises:
        LpstepsError: There are no safetensors files, or one is damaged.
    """
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, Sequence[int]] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="numpy") as tensors:
                shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise LpstepsError(
                f"{path}: not a valid safetensors file ({error}); fetch it again"
            ) from error
    return count_shapes(shapes, read_json(folder / "config.json"), str(folder))


def count_shapes(
    shapes: Mapping[str, Sequence[int]], config: Mapping[str, Any], where: str
) -> ParameterCount:
    """Count the parameters of a checkpoint from the shapes of its tensors.

    Args:
        shapes: By the names of the tensors.
        config: Content of its `config.json`.
        where: Folder or repository, for the message.

    Raises:
        LpstepsError: There are no parameters.
    """
    tied = config.get("tie_word_embeddings", False)
    total = layer = 0
    for name, shape in shapes.items():
        if is_buffer(name) or (tied and name == "lm_head.weight"):
            continue
        total += prod(shape)
        layer += prod(shape) if _FIRST_LAYER.search(name) else 0
    if total == 0:
        raise LpstepsError(f"{where}: no *.safetensors with parameters there")
    return ParameterCount(total, layer)


def check_tokenizer_code(folder: Path) -> None:
    """Check that a tokenizer that may run code has it in its own folder.

    Raises:
        LpstepsError: It is in another repository.
    """
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        check_pinned_code(read_json(settings), settings.name)


def check_model(folder: Path, expected: ExpectedModel) -> None:
    """Compare a model's files with what its config entry says, and look at every weight.

    Raises:
        LpstepsError: They differ (the message names the key to correct in config/models.yaml), or a
            weight is not finite.
    """
    config = read_json(folder / "config.json")
    count = count_parameters(folder)
    for path in weight_files(folder):
        check_finite(path)
    counted = {"parameters": count.total, "layer_parameters": count.layer}
    if count.layer == 0:
        raise LpstepsError(
            f"layer_parameters: {expected.layer_parameters}: the model's files have no tensor of "
            "decoder layer 0; see whether they are whole and those of a decoder-only model"
        )
    for key, value in expected.model_dump(exclude_none=True).items():
        if key == "model_type":
            found = config.get(key)
        else:
            found = counted[key] if key in counted else model_size(config, key, "config.json")
        if found != value:
            raise LpstepsError(
                f"{key}: {value}: the model's files say {found}; correct config/models.yaml"
            )


@contextmanager
def messages_about(source: str, folder: Path) -> Iterator[None]:
    """Let messages name the place that the user knows, not the temporary folder.

    Args:
        source: That place: a folder, a repository, or the file that a model was converted from.
        folder: The temporary folder.

    Raises:
        LpstepsError: The body raised it.
    """
    try:
        yield
    except LpstepsError as error:
        raise LpstepsError(str(error).replace(str(folder), source)) from error
