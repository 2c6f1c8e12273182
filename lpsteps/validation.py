"""Check outside data against a pydantic model, with one-line errors a user can act on."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, TypeGuard, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

from lpsteps.errors import LpstepsError, nearest

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], payload: Any, source: str) -> Model:
    """Return ``payload`` as an instance of ``model``.

    Args:
        model: The pydantic model that describes the payload.
        payload: Decoded JSON or YAML, usually a dict.
        source: Where the payload comes from (a file, a config entry), for the message.

    Raises:
        LpstepsError: The payload does not fit; the message names source, key and value, and for an
            unknown key the nearest one that is allowed.
    """
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        first = error.errors()[0]
        parts, target = _followed(model, first["loc"])
        key = ".".join(parts)
        if first["type"] == "extra_forbidden" and _is_model(target):
            known = [field.alias or name for name, field in target.model_fields.items()]
            problem = f"unknown key, {nearest(parts[-1], known)}"
        elif first["type"] == "missing":
            problem = "required, but not given"
        elif first["type"] == "value_error":
            problem = first["msg"].removeprefix("Value error, ")
        else:
            problem = f"{first['input']!r}: {first['msg']}"
        raise LpstepsError(f"{source}: {key}: {problem}") from error


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
