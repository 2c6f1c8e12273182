"""A step that fills a folder removes what an earlier run has put there, and nothing else."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

from lpsteps import object_storage, output_folder
from lpsteps.program import StepRun, run_step

MODULE = "lpsteps.errors"  # any module of the package can stand for a step
HAND, RESULT = Path("models/m/manifest.json"), Path("resources/models/m/manifest.json")


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fill(manifest: Path, *names: str) -> int:
    """Run a step whose outputs are these files and their manifest."""

    def add_arguments(parser: ArgumentParser) -> None:
        parser.add_argument("--manifest", type=Path)

    def body(step: StepRun, arguments: Namespace) -> None:
        folder = step.write_folder(arguments.manifest)
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("new")
        manifest = {"files": {name: {"sha256": "0"} for name in names}}
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return run_step(MODULE, ["--manifest", str(manifest)], add_arguments, body)


def user_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    return path


def files(folder: Path) -> set[str]:
    own = {"manifest.json", "manifest.json.record.json", ".outputs.json"}
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - own


def forget(manifest: Path) -> None:
    """Delete what a rule declares, as Snakemake does before it runs a job again."""
    manifest.unlink()
    manifest.with_name("manifest.json.record.json").unlink()


@pytest.mark.parametrize("manifest", [HAND, RESULT])
@pytest.mark.parametrize("forgotten", [True, False])
def test_a_changed_set_of_files_replaces_the_earlier_one(manifest: Path, forgotten: bool) -> None:
    assert fill(manifest, "model.safetensors", "deep/one") == 0
    if forgotten:
        forget(manifest)
    assert fill(manifest, "model-1.safetensors", "model-2.safetensors") == 0
    assert files(manifest.parent) == {"model-1.safetensors", "model-2.safetensors"}


@pytest.mark.parametrize("manifest", [HAND, RESULT])
@pytest.mark.parametrize("other", ["notes.txt", "llama/model.safetensors", "new"])
def test_a_folder_with_files_of_the_user_is_refused(
    manifest: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if other == "new" and manifest == RESULT:
        pytest.skip("below resources an output of that name is one of an earlier run")
    path = user_file(manifest.parent / other)
    assert fill(manifest, "new") == 1
    assert capsys.readouterr().err == (
        f"error: errors: --manifest: {manifest}: {path} is there, which no earlier run is known to "
        "have put there; move it away, or name a new folder\n"
    )
    assert files(manifest.parent) == {other} and path.read_text() == "mine"
    assert not manifest.exists()


@pytest.mark.parametrize("manifest", [HAND, RESULT])
def test_a_file_that_the_user_puts_beside_an_output_is_kept(manifest: Path) -> None:
    assert fill(manifest, "old") == 0
    path = user_file(manifest.parent / "notes.txt")
    assert fill(manifest, "new") == 1
    assert path.read_text() == "mine" and files(manifest.parent) == {"old", "notes.txt"}


def test_a_manifest_of_another_program_says_nothing() -> None:
    user_file(HAND).write_text(json.dumps({"files": {"mine": {}}}))
    path = user_file(HAND.parent / "mine")
    assert fill(HAND, "new") == 1
    assert path.is_file()


def test_runs_before_there_was_a_list_are_known_by_their_manifest() -> None:
    assert fill(HAND, "old") == 0
    (HAND.parent / output_folder.LISTING).unlink()
    assert fill(HAND, "new") == 0
    assert files(HAND.parent) == {"new"}


def test_below_resources_they_are_known_by_the_names_of_the_outputs() -> None:
    """Snakemake has deleted the manifest, and there is no list yet."""
    user_file(RESULT.parent / "same")
    assert fill(RESULT, "same", "more") == 0
    assert files(RESULT.parent) == {"same", "more"}


@pytest.mark.parametrize("content", ["", "{}", '{"files": 3}', '{"files": ["../../../mine"]}'])
def test_a_damaged_list_removes_nothing(content: str) -> None:
    path = user_file(Path("mine"))
    assert fill(HAND, "old") == 0
    forget(HAND)
    (HAND.parent / output_folder.LISTING).write_text(content)
    assert fill(HAND, "new") == 1
    assert path.is_file() and files(HAND.parent) == {"old"}


def test_an_interruption_between_the_outputs_leaves_no_file_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert fill(RESULT, "old") == 0
    with monkeypatch.context() as interrupted:
        interrupted.setattr(output_folder, "remove_strays", lambda *_: exec("raise OSError"))
        assert fill(RESULT, "new") == 1
    assert files(RESULT.parent) == {"old", "new"}
    forget(RESULT)
    assert fill(RESULT, "newer") == 0
    assert files(RESULT.parent) == {"newer"}


def test_temporary_files_are_no_obstacle() -> None:
    user_file(HAND.parent / ".partial-12-model.safetensors")
    shard = user_file(HAND.parent / ".partial/shard-00000.safetensors")
    silly = user_file(HAND.parent / ".nfs0001")
    assert fill(HAND, "new") == 0
    # The shards are their step's to remove.
    assert files(HAND.parent) == {"new", ".partial/shard-00000.safetensors", ".nfs0001"}
    assert shard.is_file() and silly.is_file()


def test_copies_of_stored_files_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(object_storage.ROOT, ".")
    user_file(RESULT.parent / "of-an-earlier-job")
    assert fill(RESULT, "new") == 0
    assert files(RESULT.parent) == {"new"}


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ("models/list.json", "--manifest: models/list.json: must be named manifest.json"),
        ("manifest.json", "--manifest: manifest.json: needs a folder of its own; name one"),
    ],
)
def test_a_manifest_has_its_name_and_a_folder(
    manifest: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fill(Path(manifest), "new") == 1
    assert expected in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_a_full_disk_leaves_the_list_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fill(HAND, "old") == 0
    before = (HAND.parent / output_folder.LISTING).read_bytes()

    def no_space(path: Path, payload: object) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output_folder, "write_json", no_space)
    assert fill(HAND, "new") == 1
    assert (HAND.parent / output_folder.LISTING).read_bytes() == before
    assert files(HAND.parent) == {"old"}
