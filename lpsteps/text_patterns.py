"""Patterns of text in the YAML files, and how messages and the reference of the config say them."""

from __future__ import annotations

from typing import NamedTuple

NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"
FOLDER_PATH = r"^[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*$"
SHA256 = r"^[0-9a-f]{64}$"
REVISION = r"^[0-9a-f]{40}$"
VERSION = r"^[0-9][A-Za-z0-9.+!]*$"
WHEEL = r"^[A-Za-z0-9][A-Za-z0-9._+-]*\.whl$"
REPOSITORY = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"
GENERIC_RESOURCE = r"^[A-Za-z0-9_]+(:[A-Za-z0-9_.]+)?$"
TABLE_ROW = r"^[a-z0-9+-]+$"
TABLE_COLUMN = r"^[a-z0-9_]+$"
DEFINITION_FILE = r"^[a-z0-9-]+$"


class Words(NamedTuple):
    """A pattern in words.

    Attributes:
        expected: What a message says after *must be*.
        allowed: What stands in the reference of the config, in Markdown.
    """

    expected: str
    allowed: str


WORDS = {
    NAME: Words("letters, digits and . _ + -, a letter or digit first", "name"),
    FOLDER_PATH: Words(
        "names with / between them, each of letters, digits and . _ + -, a letter or digit first",
        "`name/name`",
    ),
    SHA256: Words("a SHA-256, 64 hexadecimal digits", "64 hexadecimal digits"),
    REVISION: Words("a full commit hash, 40 hexadecimal digits", "40 hexadecimal digits"),
    VERSION: Words("an exact version, such as 1.2.3", "exact version"),
    WHEEL: Words("the name of a file that ends in .whl", "name that ends in `.whl`"),
    REPOSITORY: Words("owner/name of a repository", "`owner/name`"),
    GENERIC_RESOURCE: Words(
        "a generic resource of Slurm without a number, such as gpu or gpu:a100",
        "`name` or `name:type`",
    ),
    TABLE_ROW: Words("small letters, digits, + and -", "small letters, digits, `+`, `-`"),
    TABLE_COLUMN: Words("small letters, digits and _", "small letters, digits, `_`"),
    DEFINITION_FILE: Words("small letters, digits and -", "small letters, digits, `-`"),
}
"""The words of each pattern that a YAML file of the project is checked against."""


def words_of(pattern: str) -> Words:
    """Return a pattern in words; one of an added method's own stands for itself."""
    other = Words(f"text that matches {pattern}", f"text like `{pattern}`")
    return WORDS.get(pattern, other)
