"""Check outside data against a pydantic model, with one-line errors a user can act on."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

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
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            known = [field.alias or name for name, field in model.model_fields.items()]
            problem = f"unknown key, {nearest(key, known)}"
        elif first["type"] == "missing":
            problem = "required, but not given"
        elif first["type"] == "value_error":
            problem = first["msg"].removeprefix("Value error, ")
        else:
            problem = f"{first['input']!r}: {first['msg']}"
        raise LpstepsError(f"{source}: {key}: {problem}") from error
