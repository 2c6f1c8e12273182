"""Check outside data against a pydantic model, with one-line errors a user can act on."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeGuard, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from lpsteps.artifacts import read_json
from lpsteps.errors import LpstepsError, nearest
from lpsteps.text_patterns import words_of

Model = TypeVar("Model", bound=BaseModel)

_MAPPING = "must be a mapping of keys to values"
_INTEGER = "must be a whole number"
_NUMBER = "must be a number"
_TRUTH = "must be true or false"
_LIST = "must be a list, such as [a, b]"
_EXPECTED = {
    "bool_parsing": _TRUTH,
    "bool_type": _TRUTH,
    "dict_type": _MAPPING,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": _INTEGER,
    "int_parsing": _INTEGER,
    "int_parsing_size": _INTEGER + " with fewer digits",
    "int_type": _INTEGER,
    "invalid_key": "a key must be text; put quotes around it",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "list_type": _LIST,
    "literal_error": "must be {expected}",
    "model_attributes_type": _MAPPING,
    "model_type": _MAPPING,
    "string_type": "must be text; put quotes around a number",
    "too_long": "must list at most {max_length}",
    "too_short": "must list at least {min_length}",
    "tuple_type": _LIST,
}
"""What was expected, for the kinds of errors that pydantic tells in the words of Python."""


def validated(
    model: type[Model], payload: Any, source: str, overrides: Mapping[str, Any] | None = None
) -> Model:
    """Return ``payload`` as an instance of ``model``.

    Args:
        model: The pydantic model that describes the payload.
        payload: Decoded JSON or YAML, usually a dict.
        source: Where the payload comes from (a file, a config entry), for the message.
        overrides: The part of it that came from the command line's ``--config``.

    Raises:
        LpstepsError: The payload does not fit; the message names source, key and value, and for an
            unknown key the nearest one that is allowed.
    """
    for path, number in _not_finite(payload, set()):
        where = f"{_origin(path, source, overrides)}: {'.'.join(path)}"
        raise LpstepsError(f"{where}: {number}: must be a finite number")
    try:
        instance = model.model_validate(payload)
    except ValidationError as error:
        errors = error.errors()
        # A key under a wrong name is missing under its own; the name is what to correct.
        first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
        location = first["loc"]
        if location and location[-1] == "[key]":
            parts = [str(part) for part in location[:-2]]
            problem = f"{shown(first['input'])}: not a name: {_expectation(first)}"
        else:
            parts, target = _followed(model, location)
            problem = _problem(first, parts, target)
        origin = _origin(parts, source, overrides)
        where = f"{origin}: {'.'.join(parts)}" if parts else origin
        raise LpstepsError(f"{where}: {problem}") from error
    for path, truth, taken in _truths_taken_for_numbers(payload, instance):
        where = f"{_origin(path, source, overrides)}: {'.'.join(path)}"
        expected = _INTEGER if isinstance(taken, int) else _NUMBER
        raise LpstepsError(f"{where}: {truth}: {expected}")
    return instance


def _origin(parts: Sequence[str], source: str, overrides: Mapping[str, Any] | None) -> str:
    """Return where the value at some keys comes from."""
    inner: Any = overrides
    for part in parts:
        if not isinstance(inner, Mapping):
            break
        if part not in inner:
            return source
        inner = inner[part]
    return "--config" if parts and overrides else source


def validated_result(model: type[Model], path: Path) -> Model:
    """Read a JSON file that a step has written as an instance of ``model``.

    Raises:
        LpstepsError: There is no such file, or it does not fit; the message says what to do.
    """
    payload = read_json(path)
    try:
        return validated(model, payload, str(path))
    except LpstepsError as error:
        raise LpstepsError(f"{error}; delete it to rebuild it") from error


class _Quoting(reprlib.Repr):
    """Representations that fit into a line, also of what aliases make endlessly large."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxstring = self.maxother = 120


def shown(value: Any) -> str:
    """Return a value as a message quotes it: cut short where it is long or deep."""
    return _Quoting().repr(value)


def _problem(error: ErrorDetails, parts: Sequence[str], target: Any) -> str:
    """Return what is wrong with a value, and what would be right."""
    if error["type"] == "extra_forbidden" and _is_model(target):
        known = [field.alias or name for name, field in target.model_fields.items()]
        return f"unknown key, {nearest(parts[-1], known)}"
    if error["type"] == "missing":
        return "required, but not given"
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    return f"{shown(error['input'])}: {_expectation(error)}"


def _expectation(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    if error["type"] == "string_pattern_mismatch":
        return f"must be {words_of(context['pattern']).expected}"
    expected = _EXPECTED.get(error["type"])
    return error["msg"] if expected is None else expected.format(**context)


def _not_finite(payload: Any, seen: set[int]) -> Iterator[tuple[list[str], float]]:
    """Yield the places of NaN and of infinities, which no setting can mean."""
    if isinstance(payload, float) and not math.isfinite(payload):
        yield [], payload
    # An alias may stand for the same list a million times over; it is looked into once.
    if not isinstance(payload, Mapping | list | tuple) or id(payload) in seen:
        return
    seen.add(id(payload))
    entries = payload.items() if isinstance(payload, Mapping) else enumerate(payload)
    for key, value in entries:
        for path, number in _not_finite(value, seen):
            yield [str(key), *path], number


def _truths_taken_for_numbers(
    payload: Any, instance: Any
) -> Iterator[tuple[list[str], bool, float]]:
    """Yield the places of true and false where a number is expected, and what they became.

    Pydantic takes true for 1, so ``copa: true`` would score one question.
    """
    if isinstance(payload, bool) and isinstance(instance, int | float):
        if not isinstance(instance, bool):
            yield [], payload, instance
    # What a type leaves open comes out as it went in, and is checked elsewhere.
    elif isinstance(payload, Mapping | list | tuple) and payload is not instance:
        entries = payload.items() if isinstance(payload, Mapping) else enumerate(payload)
        for key, value in entries:
            for path, truth, taken in _truths_taken_for_numbers(value, _member(instance, key)):
                yield [str(key), *path], truth, taken


def _member(instance: Any, key: Any) -> Any:
    """Return what validation made of the value at a key or a position, None where it is gone."""
    if isinstance(instance, BaseModel):
        fields = type(instance).model_fields.items()
        names = {field.alias or name: name for name, field in fields}
        return getattr(instance, names[key]) if key in names else None
    if isinstance(instance, Mapping):
        return instance.get(key)
    known = isinstance(instance, list | tuple) and key < len(instance)
    return instance[key] if known else None


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _followed(annotation: Any, location: Sequence[str | int]) -> tuple[list[str], Any]:
    """Follow the location of an error through the types of nested data.

    Args:
        annotation: Type of the data.
        location: Keys and positions, and for a union the name of the member that was tried.

    Returns:
        The keys and positions alone, and the type at their end; where a key is unknown, the type
        that does not have it.
    """
    if not location:
        return [], annotation
    head, rest = location[0], location[1:]
    arguments = get_args(annotation)
    if _is_model(annotation):
        fields = {field.alias or name: field for name, field in annotation.model_fields.items()}
        if head not in fields:
            return [str(part) for part in location], annotation
        inner = fields[str(head)].annotation
    elif get_origin(annotation) is Annotated:
        return _followed(arguments[0], location)
    elif get_origin(annotation) in (Union, UnionType):
        members = [member for member in arguments if member is not type(None)]
        if len(members) == 1:
            return _followed(members[0], location)
        named: dict[Any, Any] = {_member_name(member): member for member in members}
        return _followed(named.get(head), rest if head in named else location)
    elif get_origin(annotation) in (dict, list, tuple):
        inner = arguments[1] if get_origin(annotation) is dict else arguments[0]
    else:
        return [str(part) for part in location], annotation
    parts, target = _followed(inner, rest)
    return [str(head), *parts], target


def _member_name(member: Any) -> str | None:
    """Return how a location names a member of a union: by its tag, or else by its class."""
    tags = [entry.tag for entry in get_args(member) if isinstance(entry, Tag)]
    return tags[0] if tags else getattr(member, "__name__", None)
