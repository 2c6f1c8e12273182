"""Write docs/config.md: every key that a YAML file of the project may have.

What is written there comes from the models that check the files, so it cannot say anything else
than they do: a field's description, its default, and what is allowed. Definitions whose fields are
described in the docstring of their class (``Attributes:``) are read from there.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lpsteps.config import Definitions, Profile
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.evaluation.benchmark import HarnessBenchmark, PerplexityBenchmark
from lpsteps.methods import method_module, method_names
from lpsteps.report.definitions import TableDefinition
from lpsteps.report.figure_definitions import FigureDefinition
from lpsteps.text_patterns import words_of

Schema = Mapping[str, Any]

_INTRODUCTION = """\
<!-- Generated from the models that check the files. Update: make reference -->
# Every key of the configuration

A profile (`config/config.yaml`) says what to run. The definition files that it lists
(`config/models.yaml`, `config/data.yaml`, `config/methods.yaml`, `config/width.yaml`) say what
exists. Tables, figures and benchmarks are one file each. A key that is not listed here is an error,
and so is a name that nothing defines.

A *name* begins with a letter or a digit and holds letters, digits and `.`, `_`, `+`, `-`; it
becomes part of paths. Where *required* stands in place of a default, the key has to be given.
"""

_METHODS = {
    "selection": ("Parameters of selections", "`params` of an entry of `selections`, by `metric`."),
    "recovery": (
        "Parameters of repairs",
        "`params` of an entry of `recoveries`, by `method`. A is the stream that enters a gap, B "
        "the stream that leaves it in the dense model, M the matrix that is fitted. Of ReplaceMe: "
        "m is the output of the MLP in front of the gap, T the matrix that it is multiplied by.",
    ),
    "width": (
        "Parameters of width prunings",
        "`params` of an entry of `width_prunings`, by `method`.",
    ),
}


def reference_text() -> str:
    """Return the reference as it stands in ``docs/config.md``.

    Raises:
        ValueError: A field has no description.
    """
    parts = [
        _INTRODUCTION,
        *model_reference("Profiles", "A file such as `config/config.yaml`.", Profile),
        *model_reference(
            "Definition files", "Entries of several files are taken together.", Definitions
        ),
        *model_reference(
            "Distillations", "Settings of an entry of `distillations`.", DistillationSettings
        ),
        *_method_parameters(),
        *model_reference(
            "Benchmarks of questions",
            "A file in `lpsteps/evaluation/benchmarks/` with `protocol: harness`.",
            HarnessBenchmark,
        ),
        *model_reference(
            "Benchmarks of running text",
            "A file in `lpsteps/evaluation/benchmarks/` with `protocol: perplexity`.",
            PerplexityBenchmark,
        ),
        *model_reference("Tables", "A file in `reports/tables/`.", TableDefinition),
        *model_reference("Figures", "A file in `reports/figures/`.", FigureDefinition),
    ]
    return "\n".join(parts)


def model_reference(title: str, introduction: str, model: type[BaseModel]) -> Iterator[str]:
    """Yield a heading, a table of a model's keys, and such tables of the models inside it.

    Args:
        title: Heading.
        introduction: Where such keys stand, one sentence.
        model: The model that checks them.

    Raises:
        ValueError: A field has no description.
    """
    schema = model.model_json_schema()
    described: dict[str, str] = {}
    for base in model.__mro__:
        described = attribute_descriptions(inspect.cleandoc(base.__doc__ or "")) | described
    yield f"## {title}\n\n{introduction}\n"
    yield _keys(schema, described)
    for name, nested in schema.get("$defs", {}).items():
        docstring = inspect.cleandoc(nested["description"])
        summary = docstring.partition("\n")[0]
        yield f"### {name}\n\n{summary}\n"
        yield _keys(nested, attribute_descriptions(docstring))
        yield from _values(docstring)
    yield from _values(inspect.cleandoc(model.__doc__ or ""))


def attribute_descriptions(docstring: str) -> dict[str, str]:
    """Return what the section ``Attributes:`` of a docstring says of each attribute.

    Only its first paragraph: what follows, such as a table of values, is for readers of the code.

    Args:
        docstring: A docstring in Google style, without common indentation.
    """
    _, _, section = docstring.partition("Attributes:\n")
    found: dict[str, str] = {}
    name, open_paragraph = "", False
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        start = re.fullmatch(r" {4}(\w+): (.*)", line)
        if start:
            name, open_paragraph = start[1], True
            found[name] = start[2]
        elif not line.strip():
            open_paragraph = False
        elif open_paragraph:
            found[name] += f" {line.strip()}"
    return {name: _as_yaml_user_reads_it(text) for name, text in found.items()}


def _as_yaml_user_reads_it(text: str) -> str:
    return re.sub(r"\bNone\b", "`null`", text.replace("``", "`")).removesuffix(".")


def value_table(docstring: str) -> list[tuple[str, str]]:
    """Return the values that a docstring explains in a table between lines of ``=``.

    Args:
        docstring: A docstring with at most one such table of two columns.

    Returns:
        Each value and what it means, in order.
    """
    table = re.search(r"^( *)(=+) +=+\n(.*?)^ *=+ +=+$", docstring, flags=re.MULTILINE | re.DOTALL)
    if table is None:
        return []
    width = len(table[1]) + len(table[2])
    rows: list[tuple[str, str]] = []
    for line in table[3].splitlines():
        value, meaning = line[:width].strip(), line[width:].strip()
        if value:
            rows.append((value, meaning))
        else:
            rows[-1] = (rows[-1][0], f"{rows[-1][1]} {meaning}")
    return [(value.strip("`"), _as_yaml_user_reads_it(meaning)) for value, meaning in rows]


def _method_parameters() -> Iterator[str]:
    for kind, (title, introduction) in _METHODS.items():
        yield f"## {title}\n\n{introduction}\n"
        for name in method_names(kind):
            method = method_module(kind, name)
            schema = method.Params.model_json_schema()
            source = f" ([source]({method.PAPER}))" if method.PAPER else ""
            yield f"### `{name}`\n\n{method.TITLE}{source}.\n"
            if schema["properties"]:
                yield _keys(schema, {})


def _values(docstring: str) -> Iterator[str]:
    rows = value_table(docstring)
    if rows:
        lines = [f"| `{value}` | {_cell(meaning)} |" for value, meaning in rows]
        yield "\n".join(["| `kind` | meaning |", "|---|---|", *lines, ""])


def _keys(schema: Schema, described: Mapping[str, str]) -> str:
    lines = ["| key | allowed | default | meaning |", "|---|---|---|---|"]
    for key, field in schema["properties"].items():
        meaning = field.get("description") or described.get(key)
        if not meaning:
            raise ValueError(f"{schema['title']}.{key}: has no description")
        default = "*required*"
        if key not in schema.get("required", ()):
            default = f"`{_yaml(field['default'])}`" if "default" in field else ""
        lines.append(f"| `{key}` | {_cell(_allowed(field))} | {default} | {_cell(meaning)} |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _yaml(value: object) -> str:
    """Return a default as it would be written in YAML, on one line."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return value if value and value.strip() == value else repr(value).replace("'", '"')
        case dict():
            return "{" + ", ".join(f"{key}: {_yaml(entry)}" for key, entry in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_yaml, value)) + "]"
        case _:
            return str(value)


def _allowed(schema: Schema, several: bool = False) -> str:
    """Return in words what a JSON schema allows.

    Args:
        schema: The schema of one value.
        several: Whether the words stand after *of*, for the elements of a list or a mapping.
    """
    match schema:
        case {"anyOf": options} | {"oneOf": options}:
            return " or ".join(_allowed(option, several) for option in options)
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            return f"[{name}](#{name.lower()})"
        case {"const": value}:
            return f"`{_yaml(value)}`"
        case {"enum": values}:
            return ", ".join(f"`{_yaml(value)}`" for value in values)
        case {"type": "array", "items": items}:
            return f"list of {_allowed(items, several=True)}{_length(schema, 'Items')}"
        case {"type": "object"}:
            return _allowed_mapping(schema)
        case {"type": "null"}:
            return "`null`"
        case {"type": "boolean"}:
            return "`true`, `false`"
        case {"type": "integer" | "number"}:
            return _allowed_number(schema, several)
        case {"type": "string", "pattern": pattern}:
            words = words_of(pattern).allowed
            return f"{words}s" if several and words == "name" else words
        case {"type": "string"}:
            return "texts" if several else "text"
        case _:
            return "any value"


def _allowed_mapping(schema: Schema) -> str:
    patterns = schema.get("patternProperties", {})
    values = next(iter(patterns.values()), schema.get("additionalProperties", True))
    keys = "name" if patterns else "text"
    meaning = "any value" if values is True else _allowed(values)
    return f"mapping of {keys} to {meaning}{_length(schema, 'Properties')}"


def _length(schema: Schema, what: str) -> str:
    bounds = {f"min{what}": "at least", f"max{what}": "at most"}
    limits = [f"{text} {schema[key]} of them" for key, text in bounds.items() if key in schema]
    return f", {' and '.join(limits)}" if limits else ""


def _allowed_number(schema: Schema, several: bool) -> str:
    words = "whole number" if schema["type"] == "integer" else "number"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return " ".join([f"{words}s" if several else words, " and ".join(limits)]).strip()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference_text(), encoding="utf-8")
