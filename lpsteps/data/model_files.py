"""Which files of a folder are a model's: the weights that are loaded, and what belongs to them."""

from __future__ import annotations

from pathlib import Path

from lpsteps.artifacts import read_json
from lpsteps.errors import LpstepsError
from lpsteps.object_storage import MANIFEST
from lpsteps.output_folder import LISTING
from lpsteps.provenance import RECORD_SUFFIX

_CODE = ".py"
# What this project writes beside a model's files, of an export that is taken as a model.
BOOKKEEPING = frozenset({MANIFEST, MANIFEST + RECORD_SUFFIX, LISTING})
_SUFFIXES = frozenset({".json", ".safetensors", ".model", ".jinja", ".txt", _CODE})


def model_files(folder: Path, *, with_code: bool) -> list[Path]:
    """Return the files that a model is taken over with, sorted.

    Left out are second copies of the weights and what another program has put there.

    Args:
        folder: Folder with config.json, safetensors and tokenizer files.
        with_code: Also the Python files that some models bring along.

    Raises:
        LpstepsError: The index of the weights is damaged, or one of them is missing.
    """
    suffixes = _SUFFIXES if with_code else _SUFFIXES - {_CODE}
    others = {*folder.glob("*.safetensors")} - {*weight_files(folder)}
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and path.suffix in suffixes
        and path.name not in BOOKKEEPING
        and path not in others
    ]


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers loads a model from, sorted.

    Some repositories hold the same weights a second time, for another program.

    Raises:
        LpstepsError: The index of the weights is damaged, or one of them is missing.
    """
    index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file() and not whole.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict):
            raise LpstepsError(f"{index}: weight_map: missing; fetch the model again")
        paths = sorted({folder / Path(str(name)).name for name in shards.values()})
        for path in paths:
            if not path.is_file():
                raise LpstepsError(f"{path}: missing, but in {index.name}; fetch the model again")
        return paths
    return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
