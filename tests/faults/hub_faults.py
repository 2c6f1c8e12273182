"""A hub that fails: a local server in its place that refuses, stalls, cuts off and lies."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from faults.outcome import Outcome

REVISION = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "secret" * 5
PATIENCE = 120
"""Seconds after which a download counts as hanging."""

STATUSES = (401, 403, 404, 429, 500, 503)
FAULTS = (
    *(f"answers {status}" for status in STATUSES),
    "stalls",
    "cuts weights off",
    "sends a page for weights",
    "sends other weights than it announced",
    "closes the connection",
    "is not there",
    "has another commit",
    "sends invalid JSON",
)
WEIGHTS_ALONE = "sends nothing but weights"
"""No fault for who has all other files."""


class _Hub(ThreadingHTTPServer):
    """Serves one model, in the way that its fault has it."""

    daemon_threads = True

    def __init__(self, model: Path, fault: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.fault = fault
        self.files = {
            path.name: path.read_bytes() for path in sorted(model.iterdir()) if path.is_file()
        }
        self.over = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    """Answers as the hub does: facts of a commit, and its files."""

    server: _Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        fault = self.server.fault
        if fault.startswith("answers "):
            self._send(int(fault.split()[1]), b'{"error": "refused"}', body)
        elif fault == "stalls":
            self.server.over.wait(PATIENCE)
            self.close_connection = True
        elif fault == "closes the connection":
            self.close_connection = True
        elif self.path.startswith("/api/"):
            self._facts(body)
        else:
            self._file(self.path.split("?")[0].rpartition("/")[2], body)

    def _facts(self, body: bool) -> None:
        if self.server.fault == "sends invalid JSON":
            self._send(200, b"<html>", body)
            return
        if self.server.fault == "has another commit":
            self._send(
                404, b'{"error": "Invalid rev id"}', body, {"X-Error-Code": "RevisionNotFound"}
            )
            return
        siblings = [{"rfilename": name} for name in self.server.files]
        facts = {"id": "owner/tiny", "sha": REVISION, "siblings": siblings, "private": False}
        if "/tree/" in self.path:
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                for name, content in self.server.files.items()
            ]
            self._send(200, json.dumps(entries).encode(), body)
        else:
            self._send(200, json.dumps(facts).encode(), body)

    def _file(self, name: str, body: bool) -> None:
        content = self.server.files.get(name)
        if content is None:
            self._send(404, b"", body, {"X-Error-Code": "EntryNotFound"})
            return
        sent, length = content, len(content)
        if name.endswith(".safetensors"):
            if self.server.fault == "cuts weights off":
                sent = content[: len(content) // 2]
            elif self.server.fault == "sends a page for weights":
                sent = b"<html>404 Not Found</html>"
                length = len(sent)
            elif self.server.fault == "sends other weights than it announced":
                sent = content[:-1] + bytes([content[-1] ^ 1])
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": REVISION}
        if self.server.fault == WEIGHTS_ALONE and body and not name.endswith(".safetensors"):
            self._send(500, b"", body)
            return
        self._send(200, sent, body, headers, length)

    def _send(
        self,
        status: int,
        content: bytes,
        body: bool,
        headers: dict[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if body:
            self.wfile.write(content)
            if length is not None and length > len(content):
                self.close_connection = True


def _etag(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def failing_hub(model: Path, fault: str) -> Iterator[str]:
    """Serve a model on this machine; yields the address."""
    hub = _Hub(model, fault)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield "http://127.0.0.1:9" if fault == "is not there" else hub.address
    finally:
        hub.over.set()
        hub.shutdown()
        hub.server_close()
        thread.join()


def hub_faults(
    model: Path, spec: dict[str, Any], folder: Path, faults: tuple[str, ...] = FAULTS
) -> Iterator[Outcome]:
    """Fetch a model from a hub with each of the faults.

    Args:
        model: Folder of the model that the hub serves.
        spec: Settings of `fetch_model` for it; where it comes from is replaced.
        folder: An existing folder to fetch into.
        faults: The faults to try.
    """
    for number, fault in enumerate(faults):
        target = folder / f"fault{number}"
        run, log = fetch(model, spec, target, fault)
        lines = run.stderr.splitlines()
        # What the same command goes on from lies beside the model's name, never under it.
        left = [
            path
            for path in target.rglob("*")
            if path.is_file() and path != log and not _is_download(path.relative_to(target))
        ]
        problems = []
        errors = [line for line in lines if line.startswith("error: ")]
        # The hub's client also tells of each of its retries.
        if run.returncode != 1 or len(errors) != 1 or "Traceback" in run.stderr:
            problems.append(f"status {run.returncode}, {run.stderr[-600:]!r}")
        if left:
            problems.append(f"left {[str(path.relative_to(target)) for path in left]}")
        if TOKEN in run.stderr + run.stdout + log.read_text():
            problems.append("printed the token")
        ending = "wrong" if problems else "told"
        yield Outcome(f"hub {fault}", "fetch_model", ending, "; ".join(problems or errors))  # type: ignore[arg-type]


def _is_download(path: Path) -> bool:
    commit = f"owner--tiny@{REVISION[:12]}"
    return path.parts[:2] == ("models", f".download-tiny@{commit}")


def fetch(
    model: Path, spec: dict[str, Any], target: Path, fault: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run `fetch_model` on a hub with a fault; returns how it ended, and its log."""
    source = {"kind": "hub", "repo": "owner/tiny", "revision": REVISION}
    log = target / "log.txt"
    with failing_hub(model, fault) as address:
        environment = {
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HOME": str(target.with_name(f"{target.name}-cache")),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DOWNLOAD_TIMEOUT": "1",
            "HF_HUB_ETAG_TIMEOUT": "1",
            "HF_TOKEN": TOKEN,
            "NO_PROXY": "127.0.0.1",
        }
        command = [sys.executable, "-m", "lpsteps.steps.fetch_model"]
        command += ["--manifest", str(target / "models/tiny/manifest.json"), "--log", str(log)]
        command += ["--spec", json.dumps({**spec, "source": source})]
        run = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
    return run, log
