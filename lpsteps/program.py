"""What all step programs share: arguments, log, error lines, atomic outputs and their records."""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from lpsteps import fingerprint, object_storage, output_folder, provenance
from lpsteps.artifacts import flush_to_disk, sha256_file, verify_file_manifest, write_json
from lpsteps.errors import LpstepsError
from lpsteps.machine_faults import summary

PLANNED_CODE = "LPSTEPS_PLANNED_CODE"
"""Environment variable with the digests of all modules when a run with a cache was planned."""

PLANNED_SETTINGS = "LPSTEPS_PLANNED_SETTINGS"
"""Environment variable with the digest of the config when a run was planned."""

THREADS = "LPSTEPS_THREADS"
"""Environment variable with the number of threads of a step that runs a model."""

_PARTIAL_PREFIX = f"{output_folder.PARTIAL}-"


def parse_spec(text: str) -> dict[str, Any]:
    """Read a step's settings from the command line: JSON, or a Python literal as Snakemake prints.

    Raises:
        LpstepsError: It is neither, or not a dict.
    """
    try:
        spec = json.loads(text)
    except ValueError:
        try:
            spec = ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise LpstepsError("--spec: expected a dict as JSON or Python literal") from error
    if not isinstance(spec, dict):
        raise LpstepsError("--spec: expected a dict as JSON or Python literal")
    return spec


class StepRun:
    """One run of a step: hands out checked inputs and temporary outputs, and records both.

    Attributes:
        module: Full name of the step's module.
        spec: Everything from the config that the step reads.
        logger: Writes to the rule's log file.
    """

    def __init__(
        self, module: str, spec: dict[str, Any], logger: logging.Logger, command: Sequence[str] = ()
    ) -> None:
        """Start the clock; see the class for the arguments.

        Args:
            module: Full name of the step's module.
            spec: The step's settings.
            logger: Where messages go.
            command: Command-line arguments, for the record.
        """
        self.module = module
        self._command = [Path(sys.executable).name, "-m", module, *command]
        self.spec = spec
        self.logger = logger
        self._inputs: dict[Path, tuple[str, os.stat_result]] = {}
        self._outputs: dict[Path, Path] = {}
        self._folders: dict[Path, Path] = {}
        self._records: dict[Path, Path] = {}
        self._notes: dict[str, Any] = {}
        self._code = self._code_digests()
        self._check_code_as_planned()
        self._afterwards: list[Callable[[], None]] = []
        self._started = datetime.now(UTC)
        self._clock = time.perf_counter()

    @property
    def rule(self) -> str:
        """The rule's name, which is also the last part of the module's name."""
        return self.module.rpartition(".")[2]

    def read(self, path: Path, *, as_recorded: bool = True) -> Path:
        """Register an input by its hash and return it.

        Args:
            path: The file.
            as_recorded: Whether it must be what its own record says; False for a step that goes
                through the records by itself.

        Raises:
            LpstepsError: It is missing, or is not what the step that it comes from has written.
        """
        if not path.is_file():
            raise LpstepsError(f"{path}: no such file; build it with `snakemake --cores 1 {path}`")
        if path not in self._inputs:
            status, digest = path.stat(), sha256_file(path)
            if as_recorded:
                provenance.check_recorded(path, digest)
            self._inputs[path] = (digest, status)
        return path

    def read_manifest(self, path: Path) -> dict[str, Any]:
        """Register a manifest and the files that it lists, each checked against its listed hash.

        Raises:
            LpstepsError: A file is missing or differs from the manifest.
        """
        self.read(path)
        manifest = verify_file_manifest(path)
        for name, facts in manifest["files"].items():
            file = path.parent / name
            self._inputs[file] = (facts["sha256"], file.stat())
        return manifest

    def write(self, path: Path) -> Path:
        """Register an output and return the temporary path to write to."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(_PARTIAL_PREFIX + path.name)
        temporary.unlink(missing_ok=True)
        self._outputs[path] = temporary
        return temporary

    def write_folder(self, manifest: Path) -> Path:
        """Register a folder whose files are outputs and return the temporary folder to fill.

        Args:
            manifest: The ``manifest.json`` that is to speak for them, in the folder itself.

        Raises:
            LpstepsError: It is to have another name, or the folder holds files of somebody else.
        """
        path = manifest.parent
        if manifest.name != object_storage.MANIFEST:
            raise LpstepsError(
                f"--manifest: {manifest}: must be named {object_storage.MANIFEST}, in a folder of "
                "its own"
            )
        if not path.name:
            raise LpstepsError(f"--manifest: {manifest}: needs a folder of its own; name one")
        output_folder.check_folder(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(_PARTIAL_PREFIX + path.name)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        self._folders[path] = temporary
        return temporary

    def note(self, key: str, value: Any) -> None:
        """Keep a fact for the record, such as a seed or a measured ratio."""
        self._notes[key] = value

    def afterwards(self, action: Callable[[], None]) -> None:
        """Do something once all outputs have their final names, and only then.

        Args:
            action: For example the removal of what an interrupted run would go on from.
        """
        self._afterwards.append(action)

    def _record(self, outputs: dict[Path, Path]) -> dict[str, Any]:
        lock = provenance.LOCK_FILE
        return provenance.seal(
            {
                "schema": provenance.SCHEMA,
                "rule": self.rule,
                "module": self.module,
                "spec": self.spec,
                "code": self._code,
                "environment": fingerprint.environment_digest(lock) if lock.is_file() else None,
                "git": provenance.git_state(fingerprint.ROOT),
                "inputs": [
                    {"path": str(path), "sha256": digest, "bytes": status.st_size}
                    for path, (digest, status) in sorted(self._inputs.items())
                ],
                "outputs": [
                    {
                        "path": str(final),
                        "sha256": sha256_file(temporary),
                        "bytes": temporary.stat().st_size,
                    }
                    for final, temporary in sorted(outputs.items())
                ],
                "notes": self._notes,
                "libraries": provenance.imported_libraries(),
                "python": sys.version.split()[0],
                "machine": provenance.machine(),
                "started": self._started.isoformat(timespec="seconds"),
                "duration_seconds": round(time.perf_counter() - self._clock, 3),
                "peak_memory_bytes": provenance.peak_memory_bytes(),
                "command": self._command,
            }
        )

    def _code_digests(self) -> dict[str, str]:
        """Return the digests of the files of all modules that the step may import, as they are."""
        modules = self.spec.get("modules")
        named = modules if isinstance(modules, list) else []
        return fingerprint.closure([self.module, *named])

    def _check_code_as_planned(self) -> None:
        """Check that a shared result is what its place in the cache, chosen beforehand, says."""
        planned = json.loads(os.environ.get(PLANNED_CODE, "{}"))
        for module, digest in self._code.items():
            if planned.get(module, digest) != digest:
                raise LpstepsError(
                    f"{module}: its code changed since this run was planned, whose results are "
                    "shared; run the command again"
                )

    def _check_code_unchanged(self) -> None:
        """Check that the record can name the code that ran: modules are imported when needed."""
        now = self._code_digests()
        for module in sorted(self._code.keys() | now.keys()):
            if self._code.get(module) != now.get(module):
                raise LpstepsError(
                    f"{module}: its code changed while {self.rule} ran; run the command again"
                )

    def _check_inputs_unchanged(self) -> None:
        for path, (_, before) in self._inputs.items():
            after = path.stat() if path.exists() else None
            if after is None or (after.st_mtime_ns, after.st_size) != (
                before.st_mtime_ns,
                before.st_size,
            ):
                raise LpstepsError(
                    f"{path}: changed while {self.rule} was reading it; run the command again"
                )

    def commit(self) -> None:
        """Write the records, then give every output its final name.

        Raises:
            LpstepsError: An input or the code changed meanwhile, or a registered output was not
                written.
        """
        self._check_inputs_unchanged()
        self._check_code_unchanged()
        outputs = dict(self._outputs)
        for folder, temporary in self._folders.items():
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    outputs[folder / file.relative_to(temporary)] = file
        for final, temporary in outputs.items():
            if not temporary.is_file():
                raise LpstepsError(f"{final}: {self.rule} ended without writing it")
            flush_to_disk(temporary)
        of_folder = {
            folder: {path for path in outputs if path.is_relative_to(folder)}
            for folder in self._folders
        }
        for folder, files in of_folder.items():
            output_folder.check_folder(folder, files)
        record = self._record(outputs)
        for final in [*self._outputs, *(folder / "manifest.json" for folder in self._folders)]:
            if final in outputs:
                target = provenance.record_path(final)
                target.parent.mkdir(parents=True, exist_ok=True)
                self._records[target] = target.with_name(_PARTIAL_PREFIX + target.name)
                write_json(self._records[target], record)
        for folder, files in of_folder.items():
            output_folder.claim(folder, files)
        # Only now, so that a full disk leaves the records of an earlier run as they are.
        for target, partial in self._records.items():
            partial.replace(target)
        # A manifest speaks for the files beside it, so it gets its name after them.
        for final in sorted(outputs, key=lambda path: path.name == "manifest.json"):
            final.parent.mkdir(parents=True, exist_ok=True)
            # A link shares its mode with the user's own file, of a model in a folder.
            if outputs[final].stat().st_nlink == 1:
                outputs[final].chmod(_readable_mode())
            outputs[final].replace(final)
        for folder, files in of_folder.items():
            output_folder.remove_strays(folder, files)
            object_storage.pack(folder, files)
        for folder in {final.parent for final in outputs}:
            flush_to_disk(folder)
        self.discard()
        for action in self._afterwards:
            action()

    def discard(self) -> None:
        """Remove whatever temporary files are left.

        One that cannot be removed is no output either, and the next run of the step replaces it.
        """
        for temporary in (*self._outputs.values(), *self._records.values()):
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        for temporary in self._folders.values():
            shutil.rmtree(temporary, ignore_errors=True)


def _readable_mode() -> int:
    """The mode that new files get here; some writers restrict theirs to the owner."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


class _LogFile(logging.FileHandler):
    """A log whose own troubles stay silent: a full disk is told once, by the step's error line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Lose the message."""


def _open_log(module: str, path: Path | None) -> logging.Logger:
    logger = logging.getLogger(module)
    logger.handlers.clear()
    logger.propagate = False
    logger.setLevel(logging.INFO)
    handler: logging.Handler = logging.NullHandler()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path, mode="w", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    return logger


def _raise_terminated(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _expanded(words: Sequence[str], prefixes: str) -> list[str]:
    """Replace each word that stands for the lines of a file: no record has that file.

    Args:
        words: The command line, as it was parsed.
        prefixes: The characters that such a word may begin with, before the file's path.
    """
    expanded: list[str] = []
    for word in words:
        if word.startswith(tuple(prefixes)):
            expanded += Path(word[1:]).read_text(encoding="utf-8").splitlines()
        else:
            expanded.append(word)
    return expanded


def run_step(
    module: str,
    argv: Sequence[str] | None,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    body: Callable[[StepRun, argparse.Namespace], None],
) -> int:
    """Run one step program.

    Args:
        module: Full name of the step's module, as in ``python -m``.
        argv: Command-line arguments, ``sys.argv[1:]`` when None.
        add_arguments: Adds the step's own options; ``--spec`` and ``--log`` are there already.
        body: The work. Outputs become visible only when it returns.

    Returns:
        0, 1 after an error (one line on standard error, details in the log), or 130 when
        interrupted. In the last two cases no output was touched, unless the interruption came
        while they got their names: then the next run begins anew.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--spec", default="{}", help="settings, a dict as JSON or Python literal")
    parser.add_argument("--log", type=Path, help="file for messages and tracebacks")
    add_arguments(parser)
    words = object_storage.project_paths(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(words)
    rule = module.rpartition(".")[2]
    try:
        logger = _open_log(module, arguments.log)
    except OSError as error:
        print(f"error: {rule}: --log: {arguments.log}: {summary(error)}", file=sys.stderr)
        return 1
    previous_handler = signal.signal(signal.SIGTERM, _raise_terminated)
    step: StepRun | None = None
    try:
        command = _expanded(words, parser.fromfile_prefix_chars or "")
        object_storage.unpack_arguments(command)
        step = StepRun(module, parse_spec(arguments.spec), logger, command)
        body(step, arguments)
        step.commit()
        logger.info("%s finished", rule)
        return 0
    except LpstepsError as error:
        logger.error("%s", error)
        print(f"error: {rule}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        logger.error("interrupted")
        print(f"{rule}: interrupted; the same command continues from here", file=sys.stderr)
        return 130
    except Exception as error:
        logger.error("%s", traceback.format_exc())
        where = f"; details in {arguments.log}" if arguments.log else ""
        print(f"error: {rule}: {summary(error)}{where}", file=sys.stderr)
        return 1
    finally:
        if step is not None:
            step.discard()
        signal.signal(signal.SIGTERM, previous_handler)
