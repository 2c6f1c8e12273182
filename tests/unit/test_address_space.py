"""The check of the memory that a process may still address."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHECK = """
import resource, sys
from pathlib import Path
from lpsteps.address_space import require_address_space
from lpsteps.errors import LpstepsError

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
if int(sys.argv[1]):
    limit = used + int(sys.argv[1]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
try:
    require_address_space()
except LpstepsError as error:
    print(error)
"""


@pytest.mark.parametrize("megabytes, stops", [(0, False), (16, True), (256, False)])
def test_stops_below_the_least(megabytes: int, stops: bool) -> None:
    run = subprocess.run(
        [sys.executable, "-c", CHECK, str(megabytes)], capture_output=True, text=True, check=True
    )
    assert ("at least 32 are needed" in run.stdout) == stops
    assert ("raise the limit (ulimit -v)" in run.stdout) == stops
