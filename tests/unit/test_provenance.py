"""A chain of records holds until a single byte, path or record in it changes."""

import json
import subprocess
from pathlib import Path

import pytest

from lpsteps import provenance
from lpsteps.program import run_step

MODULE = "lpsteps.errors"


def step(inputs: list[str], output: str, content: str) -> None:
    def body(run, arguments):
        for path in inputs:
            run.read(Path(path))
        run.write(Path(output)).write_text(content)

    assert run_step(MODULE, [], lambda parser: None, body) == 0


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """results/a -> results/b -> reports/c, with a source file beside."""
    monkeypatch.chdir(tmp_path)
    Path("source.yaml").write_text("source")
    step([], "results/a", "a")
    step(["results/a"], "results/b", "b")
    step(["results/b", "source.yaml"], "reports/c", "c")


def problem(path: str = "reports/c") -> str | None:
    return provenance.Lineage().problem(Path(path))


def test_untouched_chain_verifies_and_lists_everything_behind(chain):
    lineage = provenance.Lineage()
    assert lineage.problem(Path("reports/c")) is None
    names = [str(artifact.path) for artifact in lineage.behind([Path("reports/c")])]
    assert names == ["reports/c", "results/a", "results/b", "source.yaml"]


def edit_record(path: str, **changes: object) -> None:
    record_path = Path(path + provenance.RECORD_SUFFIX)
    record = json.loads(record_path.read_text())
    record_path.write_text(json.dumps({**record, **changes}))


def swap(first: str, second: str) -> None:
    temporary = Path("swap")
    Path(first).rename(temporary)
    Path(second).rename(first)
    temporary.rename(second)


TAMPERINGS = {
    "output": (lambda: Path("reports/c").write_text("C"), "reports/c: was changed after"),
    "intermediate": (lambda: Path("results/a").write_text("A"), "results/a: was changed after"),
    "source": (
        lambda: Path("source.yaml").write_text("x"),
        "source.yaml: is not the file that reports/c",
    ),
    "deleted": (lambda: Path("results/b").unlink(), "results/b: missing"),
    "no record": (lambda: Path("results/a.record.json").unlink(), "results/a.record.json: missing"),
    "edited record": (
        lambda: edit_record("results/a", spec={"x": 1}),
        "results/a.record.json: was edited",
    ),
    "broken record": (
        lambda: Path("results/a.record.json").write_text("{"),
        "results/a.record.json: not valid JSON",
    ),
    "swapped": (lambda: swap("results/a", "results/b"), "was changed after"),
    "swapped with records": (
        lambda: (
            swap("results/a", "results/b"),
            swap("results/a.record.json", "results/b.record.json"),
        ),
        "its record is that of",
    ),
    "other run": (
        lambda: step([], "results/a", "newer"),
        "results/a: is not the file that results/b",
    ),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_tampering_is_found_and_the_file_named(chain, tampering):
    tamper, expected = TAMPERINGS[tampering]
    tamper()
    found = problem()
    assert found is not None and expected in found


def test_equal_bytes_from_another_run_keep_the_chain(chain):
    step([], "results/a", "a")
    assert problem() is None


def test_file_of_a_manifest_folder_is_covered_by_the_manifests_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def body(run, arguments):
        folder = run.write_folder(Path("resources/models/m/manifest.json"))
        (folder / "weights").write_text("w")
        (folder / "deeper").mkdir()
        (folder / "deeper/member").write_text("m")
        (folder / "manifest.json").write_text("{}")

    assert run_step(MODULE, [], lambda parser: None, body) == 0
    assert problem("resources/models/m/weights") is None
    assert problem("resources/models/m/deeper/member") is None
    (member,) = provenance.Lineage().behind([Path("resources/models/m/deeper/member")])
    assert member.target == Path("resources/models/m/manifest.json")
    Path("resources/models/m/weights").write_text("v")
    assert "weights: was changed after" in str(problem("resources/models/m/weights"))
    Path("resources/models/m/stray").write_text("v")
    assert "its record is that of" in str(problem("resources/models/m/stray"))


def test_seal_ignores_an_earlier_seal_only():
    sealed = provenance.seal({"a": 1})
    assert provenance.seal(sealed) == sealed
    assert provenance.seal({"a": 2})[provenance.SEAL] != sealed[provenance.SEAL]


def test_git_state_of_a_checkout(tmp_path: Path) -> None:
    state_of = provenance.git_state.__wrapped__  # Without the cache.
    assert state_of(tmp_path) == {}

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True)

    (tmp_path / "results").mkdir()
    for name in ("code.py", "results/one.json"):
        (tmp_path / name).write_text("1")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=first")
    state = state_of(tmp_path)
    assert not state["dirty"]
    assert len(state["commit"]) == 40
    (tmp_path / "results/one.json").write_text("2")
    assert state_of(tmp_path)["dirty"]
    assert state_of(tmp_path, besides=("results",)) == state
    (tmp_path / "config").mkdir()
    (tmp_path / "config/mine.yaml").write_text("1")
    (tmp_path / "lpsteps").mkdir()
    assert state_of(tmp_path, besides=("results",)) == state
    (tmp_path / "lpsteps/new_method.py").write_text("1")
    assert state_of(tmp_path, besides=("results",))["dirty"]
    (tmp_path / "lpsteps/new_method.py").unlink()
    (tmp_path / "code.py").write_text("2")
    assert state_of(tmp_path, besides=("results",))["dirty"]
