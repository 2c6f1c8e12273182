"""Targets of a distillation on disk: the teacher's most probable tokens, window by window.

A store is a folder with safetensors shards and a manifest that is written last, so that what has a
manifest is whole. A shard holds consecutive windows, each tensor with the windows along its first
axis, so that single windows can be read without the rest:

====================== ============================ ===============================================
tensor                 shape, dtype                 content
====================== ============================ ===============================================
``log_probabilities``  ``[W, T, K, 3]``, uint8      ``-log p`` in units of ``2**-19`` nats, an
                                                    integer of 24 bits, least significant byte first
``indices``            ``[W, T, K]``, uint16        the lower 16 bits of the token ids
``high_bits``          ``[W, T, ceil(K / 2)]``,     the next 4 bits of two token ids each, the
                       uint8                        earlier one in the lower bits; only where the
                                                    vocabulary has more than ``2**16`` tokens
``hidden``             ``[W, T, C]``                the hidden states where teacher and student
                                                    part, in the dtype of the computation; optional
====================== ============================ ===============================================

That makes 5 or 5.5 bytes per kept token. A probability is exact to ``1e-6`` of itself, which is
less than the float32 logits are that it was computed from; below ``e**-32`` it is stored as that.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from logging import Logger
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lpsteps.artifacts import (
    file_manifest,
    flush_to_disk,
    read_json,
    sha256_bytes,
    sha256_file,
    write_json,
)
from lpsteps.errors import LpstepsError
from lpsteps.validation import validated_result

if TYPE_CHECKING:
    import torch

    from lpsteps.distillation.divergence import TeacherTargets

_UNITS_PER_NAT: Final = 1 << 19
_LARGEST: Final = (1 << 24) - 1
_LARGEST_VOCABULARY: Final = 1 << 20
_SHARD_BYTES: Final = 1 << 26


def bytes_per_target(vocabulary: int) -> float:
    """Return what the store takes for each kept token of a vocabulary of so many tokens."""
    return 5.0 if vocabulary <= 1 << 16 else 5.5


def encoded_targets(
    log_probabilities: npt.NDArray[np.float32], indices: npt.NDArray[np.int64], vocabulary: int
) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a shard that express targets.

    Args:
        log_probabilities: Natural-log probabilities ``[windows, length, K]``.
        indices: Token ids of the same shape.
        vocabulary: Number of tokens, at most ``2**20``.

    Raises:
        LpstepsError: A log-probability is not a number, or the vocabulary is larger.
    """
    if vocabulary > _LARGEST_VOCABULARY:
        raise LpstepsError(
            f"vocabulary: {vocabulary}: a store holds up to {_LARGEST_VOCABULARY} tokens; "
            "set mode: fused"
        )
    if np.isnan(log_probabilities).any():
        raise LpstepsError("teacher: a log-probability is not a number; set dtype: float32")
    units = np.rint(log_probabilities.astype(np.float64) * -_UNITS_PER_NAT)
    units = np.clip(units, 0, _LARGEST).astype("<u4")
    tensors: dict[str, npt.NDArray[Any]] = {
        "log_probabilities": np.ascontiguousarray(units[..., None].view(np.uint8)[..., :3]),
        "indices": (indices & 0xFFFF).astype(np.uint16),
    }
    if vocabulary > 1 << 16:
        high = (indices >> 16).astype(np.uint8)
        later = np.zeros_like(high[..., ::2])
        later[..., : high.shape[-1] // 2] = high[..., 1::2]
        tensors["high_bits"] = high[..., ::2] | (later << 4)
    return tensors


def decoded_targets(
    tensors: Mapping[str, npt.NDArray[Any]],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return log-probabilities and token ids, ``[windows, length, K]``, from a shard's tensors."""
    stored = tensors["log_probabilities"]
    units = np.zeros((*stored.shape[:-1], 4), np.uint8)
    units[..., :3] = stored
    log_probabilities = units.view("<u4")[..., 0].astype(np.float32) / np.float32(-_UNITS_PER_NAT)
    indices = tensors["indices"].astype(np.int64)
    if "high_bits" in tensors:
        pairs = tensors["high_bits"]
        high = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(*pairs.shape[:-1], -1)
        indices |= high[..., : indices.shape[-1]].astype(np.int64) << 16
    return log_probabilities, indices


class StoreFacts(BaseModel):
    """What a store holds.

    Attributes:
        model_sha256: Digest of the manifest of the teacher's folder.
        tokens_sha256: Digest of the windows' token ids, int64, little-endian, in their order.
        dtype: What the teacher computed in.
        branch: Number of the layer whose input the hidden states are.
        hidden: Whether they are stored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    version: Literal[1] = Field(default=1, alias="schema")
    model_sha256: str
    tokens_sha256: str
    windows: int
    length: int
    hidden_size: int
    top_k: int
    vocabulary: int
    dtype: str
    branch: int
    hidden: bool

    @property
    def windows_per_shard(self) -> int:
        """Windows of each shard but the last one, which may have fewer; about 64 MiB."""
        width = self.top_k * bytes_per_target(self.vocabulary)
        if self.hidden:
            width += self.hidden_size * (4 if self.dtype == "float32" else 2)
        return max(1, int(_SHARD_BYTES // (self.length * width)))

    @property
    def shards(self) -> dict[str, range]:
        """The windows of each shard, by the shard's file name."""
        size = self.windows_per_shard
        return {
            f"shard-{number:05}.safetensors": range(first, min(first + size, self.windows))
            for number, first in enumerate(range(0, self.windows, size))
        }


class _Manifest(StoreFacts):
    """The contents of ``manifest.json``."""

    files: dict[str, dict[str, Any]]


def tokens_digest(windows: npt.NDArray[np.int64]) -> str:
    """Return the digest by which a store knows its text."""
    return sha256_bytes(np.ascontiguousarray(windows, dtype="<i8").tobytes())


@dataclass(frozen=True, eq=False)
class ShardWriter:
    """Shards of a store that is not whole yet, each finished or not there.

    A shard has a note beside it with its digest and the key, written after it. What has no note, or
    one that does not fit, is made again.

    Attributes:
        folder: Where they lie.
        key: Digest of everything that their content depends on.
        logger: Where it is said which shards are made again.
    """

    folder: Path
    key: str
    logger: Logger

    def _note(self, name: str) -> Path:
        return (self.folder / name).with_suffix(".json")

    def finished(self, name: str) -> bool:
        """Tell whether an earlier run has written this shard, for the same purpose and whole."""
        shard, note = self.folder / name, self._note(name)
        if not (shard.is_file() and note.is_file()):
            return False
        try:
            facts = read_json(note)
        except LpstepsError:
            facts = {}
        if facts.get("key") != self.key:
            self.logger.warning("%s: of another store; made again", shard)
            return False
        if facts.get("sha256") != sha256_file(shard):
            self.logger.warning("%s: damaged; made again", shard)
            return False
        return True

    def write(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write one shard."""
        from safetensors.torch import save

        self.folder.mkdir(parents=True, exist_ok=True)
        # A note never speaks for a shard that was written after it.
        self._note(name).unlink(missing_ok=True)
        shard = self.folder / name
        shard.write_bytes(save(dict(tensors)))
        flush_to_disk(shard)
        partial = self._note(name).with_suffix(".partial")
        write_json(partial, {"key": self.key, "sha256": sha256_file(shard)})
        partial.replace(self._note(name))

    def hand_over(self, facts: StoreFacts, folder: Path) -> None:
        """Give all shards to a folder and write its manifest.

        They stay here as well, at no cost, until the step has succeeded; a file system without
        hard links moves them.
        """
        for name in facts.shards:
            try:
                (folder / name).hardlink_to(self.folder / name)
            except OSError:
                (self.folder / name).replace(folder / name)
        files = file_manifest(folder, facts.shards)
        write_json(folder / "manifest.json", {**facts.model_dump(by_alias=True), **files})

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


class TeacherStore:
    """A whole store, read window by window.

    Attributes:
        facts: What it holds.
    """

    def __init__(self, manifest_path: Path) -> None:
        """Open a store whose files have been checked against its manifest.

        Raises:
            LpstepsError: The manifest is missing or malformed, or does not list the store's shards.
        """
        manifest = validated_result(_Manifest, manifest_path)
        self.facts = StoreFacts.model_validate(manifest.model_dump(exclude={"files"}))
        self._path = manifest_path
        self._shards = list(self.facts.shards.items())
        if manifest.files.keys() != self.facts.shards.keys():
            raise LpstepsError(
                f"{manifest_path}: files: {len(manifest.files)} of them: {self.facts.windows} "
                f"windows take {len(self._shards)}; delete it to rebuild the store"
            )

    def require(self, expected: StoreFacts) -> None:
        """Check that the store holds what a training needs, whether or not with hidden states.

        Raises:
            LpstepsError: It is a store of another model or text, or with other settings.
        """
        for name, value in expected:
            found = getattr(self.facts, name)
            if found != value and name != "hidden":
                raise LpstepsError(
                    f"{self._path}: {name}: {found}: this training needs {value}; "
                    "store the teacher's targets again"
                )

    def read(self, numbers: npt.NDArray[np.int64]) -> tuple[TeacherTargets, torch.Tensor | None]:
        """Read windows by their numbers.

        Args:
            numbers: Positions in the store's text, ``[windows]``, in any order.

        Returns:
            Targets ``[windows, length, K]``, and hidden states ``[windows, length, hidden_size]``
            or None, all on the CPU.
        """
        import torch
        from safetensors import safe_open

        from lpsteps.distillation.divergence import TeacherTargets

        parts: list[dict[str, torch.Tensor]] = []
        for number in numbers.tolist():
            shard, place = divmod(number, self.facts.windows_per_shard)
            with safe_open(self._path.parent / self._shards[shard][0], framework="pt") as file:
                parts.append(
                    {name: file.get_slice(name)[place : place + 1] for name in file.keys()}  # noqa: SIM118
                )
        tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        hidden = tensors.pop("hidden", None)
        log_probabilities, indices = decoded_targets(
            {name: tensor.numpy() for name, tensor in tensors.items()}
        )
        targets = TeacherTargets(torch.from_numpy(log_probabilities), torch.from_numpy(indices))
        return targets, hidden
