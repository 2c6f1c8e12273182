"""The reference of the config: every key of every model, in words that say what its check does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from lpsteps import text_patterns
from lpsteps.config import Definitions, Model, Name, Profile
from lpsteps.config_reference import (
    attribute_descriptions,
    model_reference,
    reference_text,
    value_table,
)
from lpsteps.methods import method_module, method_names

ROOT = Path(__file__).parents[2]
TITLES = {
    "selection": "Parameters of selections",
    "recovery": "Parameters of repairs",
    "width": "Parameters of width prunings",
}


class Inner(BaseModel):
    """What is inside.

    Attributes:
        size: How large it is, None for any
            size at all.

            ===== ==========
            small less than
                  ``most``
            ===== ==========
        next: Another one.

    More about it.
    """

    size: int | None = None
    next: str = ""


class Outer(BaseModel):
    """What is around."""

    name: Name = Field(description="Its name")
    share: float = Field(default=0.5, gt=0, le=1, description="A part | whole")
    kind: Literal["a", "b"] = Field(default="a", description="Its kind")
    inner: dict[Name, Inner] = Field(default={}, description="Parts")
    lengths: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = Field(
        description="Lengths"
    )
    flag: bool = Field(default=False, description="Whether")


def lines(model: type[BaseModel]) -> list[str]:
    return "\n".join(model_reference("Title", "Introduction.", model)).splitlines()


def test_each_line_says_what_is_allowed():
    found = lines(Outer)
    assert found[:2] == ["## Title", ""]
    for line in (
        "| `name` | name | *required* | Its name |",
        "| `share` | number > 0 and ≤ 1 | `0.5` | A part \\| whole |",
        "| `kind` | `a`, `b` | `a` | Its kind |",
        "| `inner` | mapping of name to [Inner](#inner) | `{}` | Parts |",
        "| `lengths` | list of whole numbers ≥ 2, at least 1 of them | *required* | Lengths |",
        "| `flag` | `true`, `false` | `false` | Whether |",
        "### Inner",
        "| `size` | whole number or `null` | `null` | How large it is, `null` for any size at all |",
        '| `next` | text | `""` | Another one |',
        "| `small` | less than `most` |",
    ):
        assert line in found, line


def test_descriptions_in_docstrings():
    docstring = (
        "Title.\n\nAttributes:\n    one: First\n        of two.\n\n        Aside.\n    two: Next.\n"
    )
    assert attribute_descriptions(docstring) == {"one": "First of two", "two": "Next"}
    assert attribute_descriptions("Title.\n") == {}
    assert value_table("Title.\n") == []


def test_a_field_without_description_is_refused():
    class Bare(BaseModel):
        """Nothing is said of its field."""

        value: int

    with pytest.raises(ValueError, match=r"Bare\.value: has no description"):
        lines(Bare)


def patterns(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
        yield from schema.get("patternProperties", {})
        for part in schema.values():
            yield from patterns(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from patterns(part)


def test_every_pattern_is_told_in_words():
    schema = json.loads((ROOT / "config/schema.json").read_text())
    definitions = Definitions.model_json_schema()
    found = {*patterns(schema), *patterns(definitions)}
    assert {text_patterns.NAME, text_patterns.GENERIC_RESOURCE, text_patterns.WHEEL} <= found
    assert found <= set(text_patterns.WORDS)
    assert "text like" not in reference_text()


def test_every_key_and_method_is_there():
    text = reference_text()
    for key in (*Profile.model_fields, *Model.model_fields):
        assert f"| `{key}` |" in text, key
    for kind, title in TITLES.items():
        part = text.split(f"## {title}\n")[1].split("\n## ")[0]
        for name in method_names(kind):
            section = part.split(f"### `{name}`\n")[1].split("\n##")[0]
            for key, field in method_module(kind, name).Params.model_fields.items():
                assert f"| `{key}` |" in section and field.description in section, (name, key)
