"""Export a page with everything behind it as a Workflow Run RO-Crate.

The crate says in the terms of https://w3id.org/ro/wfrun/workflow what the provenance records say:
which program made which file from which, when, with which settings. Nothing is added to that.
Who ran a step, for example, stands in no record, so no action has an agent.
"""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lpsteps import fingerprint, provenance
from lpsteps.artifacts import canonical_json, flush_to_disk, sha256_bytes, sha256_file
from lpsteps.audit import audit
from lpsteps.errors import LpstepsError
from lpsteps.provenance import Artifact, Lineage

if TYPE_CHECKING:
    from rocrate.model import ContextEntity, File
    from rocrate.rocrate import ROCrate

# What the Workflow Run Crate profiles 0.5 build upon.
RO_CRATE_VERSION = "1.1"
# The profiles' own term; the vocabulary of that version has none for a hash.
TERMS = {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}
RESOURCES = "resources"
WORKFLOW = Path("Snakefile")

# What of the checkout goes into a crate, so that the steps can be read and audited there.
SOURCES = (
    WORKFLOW,
    Path("LICENSE"),
    Path("README.md"),
    Path("pyproject.toml"),
    provenance.LOCK_FILE,
    Path("workflow"),
    Path("profiles"),
    Path("config"),
    Path("lpsteps"),
)
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
# A crate must state a licence. Those of models and datasets are not the project's to state.
LICENCE = {
    "@type": "CreativeWork",
    "name": "Apache-2.0 for the workflow and its programs",
    "description": (
        "Models, datasets and what was computed from them keep the licences of the models and "
        "datasets."
    ),
}
COMPLETED = "http://schema.org/CompletedActionStatus"
ENCODING_FORMATS = {
    ".csv": "text/csv",
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".py": "text/x-python",
    ".toml": "application/toml",
    ".yaml": "application/yaml",
}
# The earliest time that a ZIP archive can hold; the actions hold the real ones.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: The archive or folder.
        files: Number of files in it, besides the metadata.
        bytes: Their total size.
        described: Number of files that the metadata describe but that are not in it.
    """

    path: Path
    files: int
    bytes: int
    described: int


@dataclass(frozen=True)
class _Entry:
    """A file that the crate describes.

    Attributes:
        path: Where it lies in the project, and in the crate if it is there.
        sha256: Hash of its bytes.
        bytes: Their number.
        source: The file to copy; None when it is described only.
    """

    path: Path
    sha256: str
    bytes: int
    source: Path | None

    @classmethod
    def of(cls, path: Path, source: Path) -> _Entry:
        """Describe a file as it is now."""
        return cls(path, sha256_file(source), source.stat().st_size, source)

    @property
    def properties(self) -> dict[str, Any]:
        """What is known of the file."""
        encoding = ENCODING_FORMATS.get(self.path.suffix)
        return {
            "name": str(self.path),
            "contentSize": str(self.bytes),
            "sha256": self.sha256,
            **({"encodingFormat": encoding} if encoding else {}),
        }


def export(page: Path, output: Path, with_resources: bool = False) -> Export:
    """Write a page, everything behind it and the workflow as a Workflow Run RO-Crate.

    Downloads (the files under ``resources/`` but manifests and records, and local copies of
    datasets) are described by size and hash and stay out unless asked for. The same project gives
    the same bytes.

    Args:
        page: The HTML page, relative to the project's folder, which is the working directory.
        output: Where to write: a ZIP archive if it ends in ``.zip``, else a new folder.
        with_resources: Copy the downloads, too.

    Raises:
        LpstepsError: ``rocrate`` is not installed, ``output`` is an existing folder, the page is
            missing, or the audit of the page finds a problem.
    """
    if output.is_dir() or (output.exists() and output.suffix != ".zip"):
        raise LpstepsError(f"{output}: exists; delete it or choose another --output")
    crate = _new_crate()
    problems = audit(page).problems
    if problems:
        raise LpstepsError(
            f"{page}: not exported, its audit finds problems (`lpsteps audit {page}` lists all): "
            f"{problems[0]}"
        )
    artifacts, records = _behind(page)
    entries = _entries(artifacts, records, with_resources)
    _Description(crate, entries, records, page).fill()
    copied = [entry for entry in entries.values() if entry.source is not None]
    _write(crate, copied, output)
    return Export(
        path=output,
        files=len(copied),
        bytes=sum(entry.bytes for entry in copied),
        described=len(entries) - len(copied),
    )


def _new_crate() -> ROCrate:
    try:
        from rocrate.rocrate import ROCrate
    except ModuleNotFoundError as error:
        raise LpstepsError(
            f"{error.name}: not installed; run `pip install -e '.[export]'`"
        ) from error
    return ROCrate(version=RO_CRATE_VERSION)


def _behind(page: Path) -> tuple[list[Artifact], list[dict[str, Any]]]:
    """Return all verified files behind a page or made along with them, and all records, by time.

    Raises:
        LpstepsError: A file that was made along with one behind the page does not verify.
    """
    lineage = Lineage()
    roots = [page, page.with_suffix(".json")]
    outputs = {
        Path(entry["path"])
        for artifact in lineage.behind(roots)
        if artifact.record
        for entry in artifact.record["outputs"]
    }
    for path in sorted(outputs):
        problem = lineage.problem(path)
        if problem is not None:
            raise LpstepsError(f"{page}: not exported: {problem}")
    artifacts = lineage.behind(outputs)
    records = {
        artifact.record[provenance.SEAL]: artifact.record
        for artifact in artifacts
        if artifact.record
    }
    return artifacts, sorted(
        records.values(), key=lambda record: (record["started"], record["outputs"][0]["path"])
    )


def _paths(files: Iterable[Mapping[str, Any]]) -> list[Path]:
    return [Path(entry["path"]) for entry in files]


def _entries(
    artifacts: Iterable[Artifact], records: list[dict[str, Any]], with_resources: bool
) -> dict[Path, _Entry]:
    """Return the files to describe, by path: those behind the page, their records, the checkout."""
    origins = {
        path
        for record in records
        if any(output.parts[0] == RESOURCES for output in _paths(record["outputs"]))
        for path in _paths(record["inputs"])
    }
    entries = _checkout_entries(records)
    for artifact in artifacts:
        path = artifact.path
        outside = path.is_absolute() or ".." in path.parts
        download = path in origins or path.parts[0] == RESOURCES
        copy = path.name == "manifest.json" or with_resources or not download
        source = path if copy and not outside else None
        entries[path] = _Entry(path, artifact.sha256, artifact.bytes, source)
    for record in records:
        for path in map(provenance.record_path, _paths(record["outputs"])):
            if path.is_file():
                entries[path] = _Entry.of(path, path)
    return dict(sorted(entries.items()))


def _checkout_entries(records: Iterable[Mapping[str, Any]]) -> dict[Path, _Entry]:
    """Return the files of the workflow; the pinned environment only if it is that of all steps."""
    entries = {}
    for name in SOURCES:
        top = fingerprint.ROOT / name
        for source in sorted(top.rglob("*")) if top.is_dir() else [top]:
            path = source.relative_to(fingerprint.ROOT)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
            if source.is_file() and not hidden:
                entries[path] = _Entry.of(path, source)
    if WORKFLOW not in entries:
        raise LpstepsError(
            f"{fingerprint.ROOT / WORKFLOW}: missing; run the command from the project's checkout"
        )
    if provenance.LOCK_FILE in entries:
        digest = fingerprint.pinned_digest(fingerprint.ROOT / provenance.LOCK_FILE)
        if any(record["environment"] != digest for record in records):
            del entries[provenance.LOCK_FILE]
    return entries


def _end(record: Mapping[str, Any]) -> str:
    end = datetime.fromisoformat(record["started"]) + timedelta(seconds=record["duration_seconds"])
    return end.isoformat(timespec="seconds")


def common_version(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the commit as version, if all steps ran from the same one without local changes."""
    states = [record["git"] for record in records]
    commits = {state.get("commit") for state in states}
    commit = commits.pop()
    if commits or commit is None or any(state["dirty"] for state in states):
        return {}
    return {"version": commit}


def _compact(entities: list[Any]) -> Any:
    """Return a single value as such, as RO-Crate recommends it."""
    return entities[0] if len(entities) == 1 else entities


class _Description:
    """Fills an empty crate with the entities that describe files, programs and steps."""

    def __init__(
        self,
        crate: ROCrate,
        entries: Mapping[Path, _Entry],
        records: list[dict[str, Any]],
        page: Path,
    ) -> None:
        self.crate = crate
        self.entries = entries
        self.records = records
        self.page = page
        self.files: dict[Path, File | ContextEntity] = {}

    def fill(self) -> None:
        """Add all entities."""
        self.crate.metadata.extra_terms.update(TERMS)
        workflow = self._add_workflow()
        programs = self._add_programs()
        workflow["hasPart"] = list(programs.values())
        for path, entry in self.entries.items():
            if path not in self.files:
                self.files[path] = self._add_file(entry, {})
        actions = [self._add_step(record, programs[record["module"]]) for record in self.records]
        self._describe_root([self._add_run(workflow), *actions])

    def _add_context(self, identifier: str, properties: dict[str, Any]) -> ContextEntity:
        from rocrate.model import ContextEntity

        return self.crate.add(ContextEntity(self.crate, identifier, properties=properties))

    def _add_file(self, entry: _Entry, properties: dict[str, Any]) -> File | ContextEntity:
        """Add a file under its path, or one that stays outside under an identifier in the crate."""
        properties = {**entry.properties, **properties}
        if entry.source is not None:
            return self.crate.add_file(entry.source, entry.path, properties=properties)
        return self._add_context(f"#{quote(str(entry.path))}", {**properties, "@type": "File"})

    def _add_workflow(self) -> File:
        entry = self.entries[WORKFLOW]
        assert entry.source is not None
        self.files[WORKFLOW] = workflow = self.crate.add_workflow(
            entry.source,
            entry.path,
            main=True,
            lang="snakemake",
            properties={**entry.properties, **common_version(self.records)},
        )
        return workflow

    def _add_programs(self) -> dict[str, File | ContextEntity]:
        """Add the programs that ran, by module."""
        python = self._add_context(
            "https://www.python.org/", {"@type": "ComputerLanguage", "name": "Python"}
        )
        programs = {}
        for module in sorted({record["module"] for record in self.records}):
            source = fingerprint.module_path(module)
            assert source is not None, "the audit has digested it"
            path = source.relative_to(fingerprint.ROOT)
            runs = [record for record in self.records if record["module"] == module]
            properties = {
                "@type": ["File", "SoftwareSourceCode"],
                "programmingLanguage": python,
                **common_version(runs),
            }
            programs[module] = self.files[path] = self._add_file(self.entries[path], properties)
        return programs

    def _add_step(self, record: Mapping[str, Any], program: File | ContextEntity) -> ContextEntity:
        outputs = _paths(record["outputs"])
        own_records = filter(self.files.__contains__, map(provenance.record_path, outputs))
        return self._add_context(
            f"#{record['rule']}-{record[provenance.SEAL][:16]}",
            {
                "@type": "CreateAction",
                "name": f"{record['rule']}: {outputs[0]}",
                "description": shlex.join(record["command"]),
                "instrument": program,
                "object": _compact(
                    [
                        *(self.files[path] for path in _paths(record["inputs"])),
                        self._settings(record["spec"]),
                    ]
                ),
                "result": _compact([self.files[path] for path in outputs]),
                "startTime": record["started"],
                "endTime": _end(record),
                "actionStatus": COMPLETED,
                "subjectOf": _compact([self.files[path] for path in own_records]),
            },
        )

    def _settings(self, spec: Mapping[str, Any]) -> ContextEntity:
        digest = sha256_bytes(canonical_json(spec).encode())
        value = json.dumps(spec, sort_keys=True, ensure_ascii=False)
        return self._add_context(
            f"#spec-{digest[:16]}", {"@type": "PropertyValue", "name": "spec", "value": value}
        )

    def _add_run(self, workflow: File) -> ContextEntity:
        """Add the run of the whole workflow, from its source files to the page and the tables."""
        results = {self.page, self.page.with_suffix(".json")}
        made = {path for record in self.records for path in _paths(record["outputs"])}
        read = {path for record in self.records for path in _paths(record["inputs"])}
        final = [
            path
            for record in self.records
            if results.intersection(_paths(record["outputs"]))
            for path in _paths(record["outputs"])
        ]
        return self._add_context(
            "#run",
            {
                "@type": "CreateAction",
                "name": f"All steps behind {self.page}",
                "description": (
                    "From the start of the first step to the end of the last one. The steps may "
                    "come from several invocations of Snakemake: it repeats what has changed only."
                ),
                "instrument": workflow,
                "object": _compact([self.files[path] for path in sorted(read - made)]),
                "result": _compact([self.files[path] for path in sorted(final)]),
                "startTime": min(record["started"] for record in self.records),
                "endTime": max(map(_end, self.records)),
                "actionStatus": COMPLETED,
            },
        )

    def _describe_root(self, actions: list[ContextEntity]) -> None:
        root = self.crate.root_dataset
        for identifier, name in PROFILES.items():
            profile = self._add_context(
                identifier,
                {"@type": "CreativeWork", "name": name, "version": identifier.rpartition("/")[2]},
            )
            root.append_to("conformsTo", profile)
        root["name"] = f"{self.page}: scores of pruned and repaired language models"
        root["description"] = (
            "A page of benchmark tables, the results behind every number in it, and the steps that "
            "made them, back to pinned downloads. Files whose identifier starts with # are "
            "described by size and hash and are not part of the crate."
        )
        root["license"] = self._add_context("#licence", LICENCE)
        root["datePublished"] = next(
            _end(record) for record in self.records if self.page in _paths(record["outputs"])
        )
        root["mentions"] = actions


def _write(crate: ROCrate, copied: list[_Entry], output: Path) -> None:
    """Write the crate beside its final name, flush it to disk, then rename it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=output.parent) as partial:
        folder = Path(partial, "crate")
        crate.write(folder)
        for entry in copied:
            if sha256_file(folder / entry.path) != entry.sha256:
                raise LpstepsError(f"{entry.path}: changed meanwhile; run the command again")
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        if output.suffix == ".zip":
            archive = Path(partial, "crate.zip")
            _zip(archive, folder, paths)
            archive.replace(output)
        else:
            for path in [*paths, *(path for path in folder.rglob("*") if path.is_dir()), folder]:
                flush_to_disk(path)
            folder.rename(output)
    flush_to_disk(output.parent)


def _zip(archive: Path, folder: Path, paths: Iterable[Path]) -> None:
    """Pack files so that equal files give equal bytes."""
    with zipfile.ZipFile(archive, "w") as target:
        for path in paths:
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            entry.file_size = path.stat().st_size
            with path.open("rb") as stream, target.open(entry, "w") as member:
                shutil.copyfileobj(stream, member)
    flush_to_disk(archive)
