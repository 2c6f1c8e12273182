"""Files in object storage: what jobs with a folder of their own are told, bring along and leave."""

from __future__ import annotations

import json
import os
import subprocess
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

from lpsteps import object_storage, provenance
from lpsteps.artifacts import file_manifest, write_json
from lpsteps.errors import LpstepsError
from lpsteps.program import StepRun, run_step
from lpsteps.provenance import Lineage

MODULE = "lpsteps.errors"  # any module of the package can stand for a step
ROOT = Path(".snakemake/storage/s3/bucket/folder")


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job's folder where files lie in object storage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(object_storage.ROOT, "")
    object_storage.use(ROOT)
    return tmp_path


def run(body: object, *argv: str) -> int:
    def add_arguments(parser: ArgumentParser) -> None:
        parser.add_argument("--manifest", type=Path)
        parser.add_argument("--named", action="append", default=[])
        parser.add_argument("--output", type=Path)

    return run_step(MODULE, [*argv, "--log", f"{ROOT}/logs/step.log"], add_arguments, body)


def fetch(step: StepRun, arguments: Namespace) -> None:
    """Write a manifest and two files, one of them in a folder."""
    folder = step.write_folder(arguments.manifest)
    (folder / "deep").mkdir()
    for name in ("weights", "deep/tokens"):
        (folder / name).write_text(name)
    write_json(folder / "manifest.json", file_manifest(folder, ["weights", "deep/tokens"]))


def use(step: StepRun, arguments: Namespace) -> None:
    """Read all files of a manifest."""
    manifest = step.read_manifest(Path(arguments.named[0].partition("=")[2]))
    step.write(arguments.output).write_text(" ".join(manifest["files"]))


def test_local_copies_are_the_project_itself(stored: Path):
    Path("results").mkdir()
    Path(ROOT, "results/a").write_text("a")
    assert Path("results/a").read_text() == "a"
    object_storage.use(ROOT)
    assert os.environ[object_storage.ROOT] == str(ROOT)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_something_else_in_the_place_of_the_link_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(object_storage.ROOT, raising=False)
    ROOT.parent.mkdir(parents=True)
    if elsewhere:
        ROOT.symlink_to("/")
    else:
        ROOT.mkdir()
    with pytest.raises(LpstepsError, match=f"{ROOT}: is no link to the project; delete it"):
        object_storage.use(ROOT)
    assert not object_storage.in_use()


def test_a_record_names_the_paths_of_one_machine(stored: Path):
    assert run(fetch, "--manifest", f"{ROOT}/resources/models/m/manifest.json") == 0
    manifest, output = f"{ROOT}/resources/models/m/manifest.json", f"{ROOT}/results/a"
    assert run(use, "--named", f"model={manifest}", "--output", output) == 0
    text = Path("results/a.record.json").read_text()
    assert ".snakemake" not in text
    record = json.loads(text)
    inputs = [entry["path"] for entry in record["inputs"]]
    folder = "resources/models/m/"
    assert inputs == [folder + name for name in ("deep/tokens", "manifest.json", "weights")]
    assert record["command"][-2:] == ["--log", "logs/step.log"]
    assert Path("logs/step.log").is_file()


def test_files_of_a_manifest_travel_in_a_folder_beside(stored: Path):
    manifest = Path("resources/models/m/manifest.json")
    assert run(fetch, "--manifest", f"{ROOT}/{manifest}") == 0
    travelling = Path("resources/models/m.files")
    names = sorted(str(path.relative_to(travelling)) for path in travelling.rglob("*"))
    assert names == ["deep", "deep/tokens", "weights"]
    # As they come to another job: the manifest, the folder, and nothing else.
    for name in ("weights", "deep/tokens"):
        (manifest.parent / name).unlink()
    assert run(use, "--named", f"model={ROOT}/{manifest}", "--output", "results/a") == 0
    assert Path("results/a").read_text() == "deep/tokens weights"


def test_a_folder_of_somebody_else_with_such_a_name_stays(
    stored: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(object_storage.ROOT)
    own, earlier = Path("out/m.files/keep.txt"), Path("resources/models/m.files/weights")
    for path in (own, earlier):
        path.parent.mkdir(parents=True)
        path.touch()
    for folder in ("out/m", "resources/models/m"):
        assert run(fetch, "--manifest", f"{folder}/manifest.json") == 0
    assert own.is_file() and not earlier.exists()


def test_what_another_job_of_the_folder_has_left_is_replaced(
    stored: Path, monkeypatch: pytest.MonkeyPatch
):
    manifest, weights = (Path("resources/models/m", name) for name in ("manifest.json", "weights"))
    assert run(fetch, "--manifest", str(manifest)) == 0
    weights.unlink()
    weights.write_text("other")
    object_storage.unpack(manifest)
    assert weights.read_text() == "weights"
    # On one machine it is the user's.
    weights.unlink()
    weights.write_text("other")
    monkeypatch.delenv(object_storage.ROOT)
    object_storage.unpack(manifest)
    assert weights.read_text() == "other"


def test_nothing_comes_along_that_the_manifest_does_not_list(stored: Path):
    manifest = Path("resources/models/m/manifest.json")
    assert run(fetch, "--manifest", str(manifest)) == 0
    Path("resources/models/m.files/added_tokens.json").write_text("{}")
    object_storage.unpack(manifest)
    assert not Path("resources/models/m/added_tokens.json").exists()


def test_a_later_run_on_one_machine_removes_what_travelled(
    stored: Path, monkeypatch: pytest.MonkeyPatch
):
    assert run(fetch, "--manifest", "resources/models/m/manifest.json") == 0
    assert Path("resources/models/m.files").is_dir()
    monkeypatch.delenv(object_storage.ROOT)
    assert run(fetch, "--manifest", "resources/models/m/manifest.json") == 0
    assert not Path("resources/models/m.files").exists()


def test_another_entry_of_such_a_name_stays(stored: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(object_storage.ROOT)
    other = Path("resources/models/m.files")
    other.mkdir(parents=True)
    (other / "manifest.json").write_text("{}")
    assert run(fetch, "--manifest", "resources/models/m/manifest.json") == 0
    assert (other / "manifest.json").is_file()


@pytest.mark.parametrize("folder", ["resources", "results"])
def test_results_of_this_machine_are_not_put_at_stake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
):
    monkeypatch.chdir(tmp_path)
    Path(folder, "deep").mkdir(parents=True)
    Path(folder, "deep/file").touch()
    with pytest.raises(LpstepsError, match=f"{folder}: has results of runs on this machine"):
        object_storage.use(ROOT)
    assert not ROOT.is_symlink()


def test_files_that_git_does_not_know_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LpstepsError, match="this is no checkout; clone the repository"):
        object_storage.check_sources()
    subprocess.run(["git", "init", "-q"], check=True)
    Path("config").mkdir()
    Path("config/mine.yaml").touch()
    Path("notes.txt").touch()
    with pytest.raises(LpstepsError, match=r"config/mine.yaml: jobs get the files that git knows"):
        object_storage.check_sources()
    subprocess.run(["git", "add", "config"], check=True)
    object_storage.check_sources()


def test_a_run_on_one_machine_makes_no_folder_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(object_storage.ROOT, raising=False)
    assert run(fetch, "--manifest", "resources/models/m/manifest.json") == 0
    assert [path.name for path in Path("resources/models").iterdir()] == ["m"]
    assert object_storage.project_paths([f"{ROOT}/x"]) == [f"{ROOT}/x"]


def test_a_lineage_holds_where_a_manifests_files_stay_away(
    stored: Path, monkeypatch: pytest.MonkeyPatch
):
    manifest = "resources/models/m/manifest.json"
    assert run(fetch, "--manifest", manifest) == 0
    assert run(use, "--named", f"model={manifest}", "--output", "results/a") == 0
    weights = Path("resources/models/m/weights")
    weights.unlink()
    Path("resources/models/m.files/weights").unlink()
    lineage = Lineage()
    assert lineage.problem(Path("results/a")) is None
    facts = lineage.artifacts[weights]
    assert (facts.sha256, facts.bytes) == (
        json.loads(Path(manifest).read_text())["files"]["weights"]["sha256"],
        len("weights"),
    )
    # Everything else has to be there, and on one machine these files, too.
    monkeypatch.delenv(object_storage.ROOT)
    assert Lineage().problem(Path("results/a")) == f"{weights}: missing"


def test_a_lineage_finds_files_that_were_fetched_in_their_folder(
    stored: Path, monkeypatch: pytest.MonkeyPatch
):
    assert run(fetch, "--manifest", "resources/models/m/manifest.json") == 0
    monkeypatch.delenv(object_storage.ROOT)
    weights = Path("resources/models/m/weights")
    weights.unlink()
    assert Lineage().problem(weights) is None
    weights.unlink()
    Path("resources/models/m.files/weights").write_text("weighty")
    assert Lineage().problem(weights) == f"{weights}: was changed after errors wrote it"


@pytest.mark.parametrize(
    ("manifest", "beside"),
    [
        ("resources/models/m/manifest.json", "resources/models/m.files"),
        ("results/n5/patch.manifest.json", "results/n5/patch.safetensors"),
        ("results/scores/copa.json", None),
        ("results/windows.parquet", None),
    ],
)
def test_what_jobs_read_beside_a_file(manifest: str, beside: str | None):
    assert object_storage.undeclared(Path(manifest)) == (Path(beside) if beside else None)


def test_a_job_without_a_checkout_is_told_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    state = {"commit": "c" * 40, "date": "2026-01-01", "dirty": False}
    monkeypatch.setenv(provenance.GIT_STATE, json.dumps(state))
    provenance.git_state.cache_clear()
    assert provenance.git_state(tmp_path) == state
    monkeypatch.delenv(provenance.GIT_STATE)
    provenance.git_state.cache_clear()
    assert provenance.git_state(tmp_path) == {}
