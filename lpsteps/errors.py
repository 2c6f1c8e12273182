"""The one exception that means "the user can fix this"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class LpstepsError(Exception):
    """A mistake in the input, told in one line: where, what, what is allowed, how to fix it."""

    def __init__(self, message: str) -> None:
        """Keep the message on one line, whatever the input that it quotes holds."""
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Return text with line ends and all that would steer a terminal written as escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def first_line(error: Exception) -> str:
    """Return the first line of what an exception says, or its type where it says nothing."""
    if isinstance(error, KeyError) and error.args:
        return f"no {error}"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return the tail of an error message that lists the allowed names, the closest one first.

    Args:
        name: The name that was not found.
        allowed: All names that would have been accepted.

    Returns:
        ``did you mean 'x'? (allowed: a, b, x)`` or, without a close match, ``allowed: a, b, x``.
    """
    names = sorted(allowed)
    listing = ", ".join(names) if names else "nothing is defined"
    alike = [one for one in names if _numbered(one) == _numbered(name)]
    close = alike or difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{close[0]}'? (allowed: {listing})" if close else f"allowed: {listing}"


def _numbered(name: str) -> str:
    """Return a name in small letters with numbers as people write them, `table2` for `table02`."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", name.lower())
