"""The tokenizer of an export: it has to be the one that the dense model's folder loads."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from lpsteps.artifacts import read_json, write_json
from lpsteps.errors import LpstepsError
from lpsteps.export.settings import Form
from lpsteps.models.tokenizer import load_tokenizer
from lpsteps.models.trusted_code import trusts_code

_SETTINGS = "tokenizer_config.json"
_FILES = (_SETTINGS, "tokenizer.json", "tokenizer.model", "vocab.json")
# Where classes of tokenizers differ: in spaces in front, digits, line ends and what is no ASCII.
TEXTS = (
    "The river",
    " The river  runs",
    "In 2024, 3.14159 of 1000000",
    "a\n\n\tb \r\n",
    "été 北京 👋🏽",
    "don't DON'T <s> </s>",
    "",
)


def keep_tokenizer(source: Path, folder: Path, form: Form, *, trusted: bool) -> None:
    """Make an export load the same tokenizer as the dense model.

    transformers tells by the type of the model which class reads a tokenizer's files, and a model
    class of the folder's own is of a type that it does not know. So the class is named there. Code
    of a tokenizer that the dense model's entry does not trust is named there no more.

    Args:
        source: Folder of the dense model; one without a tokenizer is left as it is.
        folder: The export, with the files of the tokenizer.
        form: What the export is.
        trusted: Whether code in the export may run.

    Raises:
        LpstepsError: The export tokenises otherwise.
    """
    if not any((source / name).is_file() for name in _FILES):
        return
    dense = load_tokenizer(source)
    if (folder / _SETTINGS).is_file():
        settings = read_json(folder / _SETTINGS)
        untrusted = "auto_map" in settings and not trusts_code(source)
        if untrusted or (form != "stock" and "auto_map" not in settings):
            settings.pop("auto_map", None)
            write_json(folder / _SETTINGS, settings | {"tokenizer_class": type(dense).__name__})
    exported = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=trusted
    )
    for text in TEXTS:
        expected, found = (tokenizer(text)["input_ids"] for tokenizer in (dense, exported))
        if found != expected:
            raise LpstepsError(
                f"not exported: its tokenizer ({type(exported).__name__}) makes {found} of "
                f"{text!r}, that of the dense model ({type(dense).__name__}) {expected}"
            )
