"""A terminal in place of standard error, and what was shown on it."""

from __future__ import annotations

import os
import pty
import sys
import threading

import pytest


class Terminal:
    """While it is entered, ``sys.stderr`` is a pseudo-terminal; ``text`` is what was shown."""

    def __enter__(self) -> Terminal:
        self.text = ""
        self._reading, writing = pty.openpty()
        self._stream = os.fdopen(writing, "w")
        self._parts: list[bytes] = []
        # Read all the time: a terminal that nobody reads blocks who writes to it.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(sys, "stderr", self._stream)
        self._patch.setenv("TERM", "xterm")
        self._patch.setenv("COLUMNS", "120")
        return self

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._reading, 4096)
            except OSError:  # the other end was closed
                return
            self._parts.append(part)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
        self._stream.close()
        self._reader.join(timeout=10)
        os.close(self._reading)
        self.text = b"".join(self._parts).decode()
