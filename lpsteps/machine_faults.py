"""Troubles of this machine, and what to do about them: they are no mistake in any input."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from lpsteps.errors import first_line, printable

_ACCESS = {
    errno.EACCES: "may not be written or read; correct its permissions",
    errno.ENOTDIR: "a file stands where a folder is needed; move it away",
    errno.EPERM: "may not be written or read; correct its permissions",
    errno.EROFS: "the file system is read-only; make it writable",
}
"""What to do about a file, by the number of the error."""

_SPACE = {
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "a file may not grow that large here; raise the limit (ulimit -f)",
    errno.ENOSPC: "no space left on the disk; free some",
}
"""Likewise about a disk, which need not name a file."""

_NO_MEMORY = re.compile(
    r"ca(n't|nnot) allocate memory|not enough memory|out of memory|bad_alloc", re.I
)
_NO_THREAD = re.compile(r"can't start new thread")


def summary(error: Exception) -> str:
    """Return one line on an error that is no mistake in the input, with the remedy if known."""
    again = "then run the same command again"
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return f"not enough memory; end other programs or take a larger machine, {again}"
    if _NO_THREAD.search(str(error)):
        return (
            "no further thread could be started, for want of memory or because of a limit "
            f"(ulimit -u); end other programs, {again}"
        )
    remedy = (_ACCESS | _SPACE).get(error.errno or 0) if isinstance(error, OSError) else None
    if isinstance(error, OSError) and remedy is not None:
        file = f"{error.filename}: " if error.filename else ""
        return printable(f"{file}{remedy}, {again}")
    return printable(f"{type(error).__name__}: {first_line(error)}")


def raise_machine_fault(error: BaseException) -> None:
    """Raise what a library ran into on this machine, however it wraps it; else do nothing.

    For the place where whatever a library raises becomes a message about something else, such as a
    server that does not deliver.

    Args:
        error: What the library raised.

    Raises:
        OSError: The disk is full or a file may not be written.
        MemoryError: There is not enough memory.
        RuntimeError: There is not enough memory, or no thread could be started.
    """
    for cause in _causes(error):
        if _is_machine_fault(cause):
            raise cause


def _is_machine_fault(error: BaseException) -> bool:
    if isinstance(error, OSError):
        # A firewall denies a connection with the same numbers, but there is no file in that.
        of_file = error.errno in _ACCESS and error.filename is not None
        return of_file or error.errno in _SPACE or error.errno == errno.ENOMEM
    text = str(error) if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or bool(
        _NO_MEMORY.search(text) or _NO_THREAD.search(text)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, or while."""
    seen = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
