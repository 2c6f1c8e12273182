"""How jobs find the programs of this project."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def run_programs_of(project: str) -> None:
    """Make jobs run `python -m lpsteps...` with this interpreter and the code of one checkout.

    Args:
        project: The checkout. Its environment need not be activated, nor the package installed.
    """
    search = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": project}
    for name, first in search.items():
        rest = os.environ.get(name)
        os.environ[name] = os.pathsep.join([first, rest]) if rest else first
