"""What is left of the memory that the process may address, where a limit is set (`ulimit -v`)."""

from __future__ import annotations

import resource
from pathlib import Path

from lpsteps.errors import LpstepsError

LEAST_MB = 32
_MB = 2**20


def require_address_space() -> None:
    """Stop a step that has next to no memory before its libraries meet the limit.

    Not all of them say so when they do: linear algebra goes on with algorithms that need less and
    round differently, and thread pools wait for threads that never start.

    Raises:
        LpstepsError: Less than `LEAST_MB` megabytes are left below the limit.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/statm")
    if limit == resource.RLIM_INFINITY or not status.exists():
        return
    used = int(status.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    left = max(0, limit - used) // _MB
    if left < LEAST_MB:
        raise LpstepsError(
            f"not enough memory: {left} MB are left below the limit of {limit // _MB} MB and at "
            f"least {LEAST_MB} are needed; raise the limit (ulimit -v), then run the same command "
            "again"
        )
