"""The search for reference cycles, of programs that make very many objects and then end."""

from __future__ import annotations

import atexit
import gc


def collect_rarely() -> None:
    """Take most of the search for reference cycles out of this process, and all out of its end.

    Importing torch and transformers makes very many objects, and so does the graph of a workflow,
    none of them garbage. By default the interpreter searches them again and again while they grow
    in number, which takes a quarter of the time that the imports do, and once more at exit.
    """
    gc.set_threshold(500_000)
    atexit.register(gc.freeze)
