"""The exported crate: accepted by the profile's validator, true to the bytes, nothing invented."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_audit import STATS, flip_byte, lpsteps

from lpsteps.crate import common_version, export
from lpsteps.errors import LpstepsError

Entities = dict[str, dict[str, Any]]
PAGE = "reports/tables.html"
MODEL = "resources/models/tiny/model.safetensors"


@pytest.fixture(scope="module")
def archive(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The crate of the finished project."""
    path = tmp_path_factory.mktemp("crate") / "tables.zip"
    result = lpsteps(finished, "crate", "--output", str(path))
    assert result.returncode == 0, result.stdout + result.stderr
    return path


@pytest.fixture(scope="module")
def folder(archive: Path) -> Path:
    """The same, unpacked."""
    path = archive.parent / "unpacked"
    with zipfile.ZipFile(archive) as file:
        file.extractall(path)
    return path


@pytest.fixture(scope="module")
def entities(folder: Path) -> Entities:
    graph = json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]
    return {entity["@id"]: entity for entity in graph}


def listed(value: Any) -> list[str]:
    """Identifiers that a property names: none, one or several."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [reference["@id"] for reference in values]


def of_type(entities: Entities, name: str) -> Iterator[dict[str, Any]]:
    for entity in entities.values():
        types = entity["@type"]
        if name == types or (isinstance(types, list) and name in types):
            yield entity


def records(project: Path) -> dict[str, dict[str, Any]]:
    """All records of a project by their hash."""
    contents = (json.loads(path.read_text()) for path in project.rglob("*.record.json"))
    return {content["record_sha256"]: content for content in contents}


@pytest.fixture(scope="module")
def validate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], list[str]]:
    """Run the validator offline, with the context that `rocrate` carries in its HTTP cache."""
    import rocrate
    from requests_cache import CachedRequest, CachedResponse, CachedSession
    from rocrate_validator import services
    from rocrate_validator.models import Severity, ValidationSettings

    content = (Path(rocrate.__file__).parent / "data/ro-crate.jsonld").read_bytes()
    url = json.loads(content)["@id"]
    cache = tmp_path_factory.mktemp("cache") / "http"
    with CachedSession(str(cache), backend="sqlite", expire_after=-1) as session:
        session.cache.save_response(
            CachedResponse(
                url=url,
                status_code=200,
                content=content,
                headers={"Content-Type": "application/ld+json"},
                request=CachedRequest(method="GET", url=url),
            )
        )

    def run(crate: Path, profile: str) -> list[str]:
        result = services.validate(
            ValidationSettings(
                rocrate_uri=crate,
                profile_identifier=profile,
                requirement_severity=Severity.REQUIRED,
                offline=True,
                cache_path=cache,
                disable_remote_crate_download=False,
            )
        )
        issues = [f"{issue.check.identifier}: {issue.message}" for issue in result.get_issues()]
        assert result.passed() == (not issues)
        return issues

    return run


@pytest.mark.parametrize("profile", ["workflow-run-crate", "provenance-run-crate"])
def test_validator_accepts_the_archive(
    archive: Path, validate: Callable[[Path, str], list[str]], profile: str
):
    assert validate(archive, profile) == []


@pytest.mark.slow
def test_validator_would_find_a_missing_run(
    folder: Path, tmp_path: Path, validate: Callable[[Path, str], list[str]]
):
    shutil.copytree(folder, tmp_path / "crate")
    path = tmp_path / "crate/ro-crate-metadata.json"
    metadata = json.loads(path.read_text())
    metadata["@graph"] = [entity for entity in metadata["@graph"] if entity["@id"] != "#run"]
    path.write_text(json.dumps(metadata))
    issues = validate(tmp_path / "crate", "workflow-run-crate")
    assert any("MUST reference the root data entity's mainEntity" in issue for issue in issues)


def test_sizes_and_hashes_are_those_of_the_bytes(finished: Path, folder: Path, entities: Entities):
    files = list(of_type(entities, "File"))
    inside = {entity["@id"] for entity in files if not entity["@id"].startswith("#")}
    for entity in files:
        name = entity["name"]
        source = folder / name if entity["@id"] in inside else finished / name
        content = source.read_bytes()
        assert entity["contentSize"] == str(len(content)), name
        assert entity["sha256"] == hashlib.sha256(content).hexdigest(), name
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {entities[name]["name"] for name in inside} == there - {"ro-crate-metadata.json"}
    assert sorted(listed(entities["./"]["hasPart"])) == sorted(inside)
    assert {PAGE, "reports/tables.json", STATS, "Snakefile", f"{STATS}.record.json"} <= there


def test_downloads_are_described_and_not_copied(entities: Entities, folder: Path):
    assert entities[f"#{MODEL}"]["name"] == MODEL and MODEL not in entities
    assert "resources/models/tiny/manifest.json" in entities
    assert "#data/wikipedia.parquet" in entities
    assert not list(folder.rglob("model.safetensors")) and not (folder / "data").exists()


def test_actions_say_what_the_records_say(finished: Path, entities: Entities):
    by_hash = {digest[:16]: record for digest, record in records(finished).items()}
    actions = {
        entity["@id"].rpartition("-")[2]: entity
        for entity in of_type(entities, "CreateAction")
        if entity["@id"] != "#run"
    }
    assert actions.keys() == by_hash.keys() and len(actions) > 40

    def names(references: Any) -> dict[str, str]:
        found = (entities[identifier] for identifier in listed(references))
        return {entity["name"]: entity["sha256"] for entity in found if "sha256" in entity}

    for key, action in actions.items():
        record = by_hash[key]
        for property_name, files in (("object", "inputs"), ("result", "outputs")):
            expected = {entry["path"]: entry["sha256"] for entry in record[files]}
            assert names(action[property_name]) == expected
        module = record["module"].replace(".", "/")
        assert listed(action["instrument"]) == [f"{module}.py"]
        assert action["startTime"] == record["started"] <= action["endTime"]
        (settings,) = (
            entities[name] for name in listed(action["object"]) if name.startswith("#spec-")
        )
        assert json.loads(settings["value"]) == record["spec"]


def test_run_goes_from_source_files_to_the_page(entities: Entities):
    run = entities["#run"]
    workflow = entities["Snakefile"]
    assert listed(run["instrument"]) == listed(entities["./"]["mainEntity"]) == ["Snakefile"]
    assert "snakemake" in workflow["programmingLanguage"]["@id"]
    assert {PAGE, "reports/tables.json", "reports/tables/table02.csv"} <= set(listed(run["result"]))
    sources = {entities[name]["name"] for name in listed(run["object"])}
    assert {"reports/tables/table02.yaml", "reports/published/table02.csv"} <= sources
    assert "data/wikipedia.parquet" in sources and STATS not in sources
    steps = [entity for entity in of_type(entities, "CreateAction") if entity is not run]
    assert run["startTime"] == min(step["startTime"] for step in steps)
    assert run["endTime"] == max(step["endTime"] for step in steps)


def test_what_is_unknown_is_left_out(finished: Path, entities: Entities):
    assert not any(record["git"] for record in records(finished).values())
    assert not list(of_type(entities, "Person")) and not list(of_type(entities, "Organization"))
    invented = {"agent", "author", "creator", "publisher", "version", "identifier", "url"}
    ours = [
        entity
        for entity in entities.values()
        if not entity["@id"].startswith("https://") and entity["@id"] != "ro-crate-metadata.json"
    ]
    assert not [entity["@id"] for entity in ours if invented & entity.keys()]


def test_same_project_gives_the_same_bytes(finished: Path, archive: Path, tmp_path: Path):
    again = tmp_path / "again.zip"
    assert lpsteps(finished, "crate", "--output", str(again)).returncode == 0
    assert again.read_bytes() == archive.read_bytes()


def test_unpacked_crate_with_resources_passes_the_audit(finished: Path, tmp_path: Path):
    crate = tmp_path / "crate"
    result = lpsteps(finished, "crate", "--output", str(crate), "--with-resources")
    assert result.returncode == 0 and "; 0 more are described only" in result.stdout
    assert (crate / MODEL).is_file()
    assert lpsteps(crate, "audit").stdout.startswith(f"{PAGE}: everything verifies")


@pytest.mark.parametrize("path", [STATS, MODEL, "reports/tables/table02.csv"])
def test_tampered_project_is_refused(copy: Path, path: str):
    flip_byte(path)(copy)
    result = lpsteps(copy, "crate", "--output", "out/crate.zip")
    assert result.returncode == 1 and not (copy / "out").exists()
    assert result.stderr.startswith(f"error: {PAGE}: not exported")
    assert f"{path}: was changed" in result.stderr and result.stderr.count("\n") == 1


def test_other_code_is_refused(copy: Path):
    with (copy / "lpsteps/recovery/linearpatch.py").open("a") as stream:
        stream.write("\nX = 1\n")
    result = lpsteps(copy, "crate")
    assert result.returncode == 1 and "made by other code" in result.stderr
    assert not list((copy / "reports").glob("*crate*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reports/none.html"], "reports/none.html: no such file"),
        (["--output", "results"], "results: exists; delete it or choose another --output"),
        (["--output", "Snakefile"], "Snakefile: exists; delete it or choose another --output"),
    ],
)
def test_mistake_is_one_line(finished: Path, arguments: list[str], message: str):
    result = lpsteps(finished, "crate", *arguments)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {message}") and result.stderr.count("\n") == 1


def test_missing_library_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "rocrate.rocrate", None)
    with pytest.raises(LpstepsError, match=r"not installed; run `pip install -e '\.\[export\]'`"):
        export(Path(PAGE), tmp_path / "crate.zip")


CLEAN = {"commit": "a" * 40, "dirty": False}


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([CLEAN, CLEAN], {"version": "a" * 40}),
        ([CLEAN, {"commit": "b" * 40, "dirty": False}], {}),
        ([CLEAN, {**CLEAN, "dirty": True}], {}),
        ([CLEAN, {}], {}),
        ([{}, {}], {}),
    ],
)
def test_version_is_the_one_clean_commit_or_none(
    states: list[dict[str, object]], expected: dict[str, str]
):
    assert common_version([{"git": state} for state in states]) == expected


def test_other_environment_is_not_passed_off_as_the_one_of_the_steps(copy: Path, folder: Path):
    assert (folder / "requirements.lock").is_file()
    with (copy / "requirements.lock").open("a") as stream:
        stream.write("another==1.0\n")
    assert lpsteps(copy, "crate", "--output", "crate").returncode == 0
    assert not (copy / "crate/requirements.lock").exists()
