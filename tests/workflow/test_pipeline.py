"""The whole workflow on a tiny random model: it ends, it is up to date, it is reproducible."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from project import CHECKOUT, make_project, snakemake, start_snakemake


def test_every_cell_is_measured_or_says_why_not(finished: Path):
    tables = json.loads((finished / "reports/tables.json").read_text())
    cells = {cell["id"]: cell for cell in tables["cells"]}
    measured = [cell for cell in cells.values() if cell["status"] == "measured"]
    assert measured and all(
        isinstance(cell["value"], float) for cell in measured if cell["column"] != "layers"
    )
    missing = [cell for cell in cells.values() if cell["status"] == "missing"]
    assert missing and all(cell["reason"] and cell["value"] is None for cell in missing)
    cell = cells["table02/tiny/n2/llm-streamline+linearpatch/wikipedia"]
    score = json.loads((finished / cell["source"]["path"]).read_text())
    assert cell["value"] == score["value"] and cell["n"] == 2 and cell["limited"]


def test_a_row_may_have_text_of_its_own(finished: Path):
    """The extended text lies behind the row's number, and behind no other."""
    tables = json.loads((finished / "reports/tables.json").read_text())
    cells = {cell["id"]: cell for cell in tables["cells"]}
    own, other = (
        f"results/tiny/calibration/{calibration}/selection/llm-streamline/n2/channel-scale"
        for calibration in ("wikipedia+own", "wikipedia")
    )
    assert cells["rivals/tiny/n2/own-text/novels"]["variant"] == own
    assert cells["table06/tiny/n2/channel-scale/novels"]["variant"] == other
    windows = "results/tiny/calibration/wikipedia+own/windows.parquet"
    kinds = pq.read_table(finished / windows)["documents"].to_pylist()
    assert kinds.count(["generated"]) == 2 and kinds.count(["corpus"]) == 3
    artifacts = tables["artifacts"]
    assert artifacts[windows]["rule"] == "extend_windows"

    def behind(path: str) -> set[str]:
        sources = artifacts[path]["inputs"]
        return {path}.union(*map(behind, sources))

    assert windows in behind(f"{own}/scores/novels.json")
    assert windows not in behind(f"{other}/scores/novels.json")


def test_finished_project_has_nothing_to_do(finished: Path):
    assert "Nothing to be done" in snakemake(finished, "-n", "reports/tables.html").stdout


def test_a_folder_that_is_made_anew_keeps_nothing_of_the_last_time(tmp_path: Path):
    """Snakemake deletes the manifest and its record first, and nothing else of the folder."""
    project = make_project(tmp_path)
    target = "resources/models/tiny/manifest.json"
    folder = (project / target).parent
    (project / "model/added_tokens.json").write_text("{}")
    assert snakemake(project, target).returncode == 0
    assert (folder / "added_tokens.json").is_file()
    (project / "model/added_tokens.json").unlink()
    assert snakemake(project, target).returncode == 0
    assert (folder / "config.json").is_file() and not (folder / "added_tokens.json").exists()
    (folder / "notes.txt").write_text("mine")
    run = snakemake(project, "--force", target)
    assert run.returncode == 1
    told = (
        f"error: fetch_model: --manifest: {target}: {target.rpartition('/')[0]}/notes.txt is there,"
    )
    assert told in run.stdout
    assert (folder / "notes.txt").read_text() == "mine" and (folder / "config.json").is_file()


def build_elsewhere_with_a_kill(folder: Path, *targets: str) -> Path:
    """Build targets in a tiny project of its own, killed at its first score and started again."""
    other = make_project(folder)
    process = start_snakemake(other, *targets, cores=2)
    deadline = time.monotonic() + 600
    while not any((other / "results").rglob("scores/*.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert not list(other.rglob(".partial-*"))
    run = snakemake(other, *targets)
    assert run.returncode == 0, run.stdout
    return other


def payloads(project: Path) -> list[str]:
    """Scores, statistics and tensors in `results`, without the records of how they were made."""
    patterns = ("scores/*", "*.parquet", "*.safetensors")
    paths = sorted(path for pattern in patterns for path in (project / "results").rglob(pattern))
    names = [str(path.relative_to(project)) for path in paths]
    return [name for name in names if not name.endswith(".record.json")]


def different(names: list[str], one: Path, other: Path) -> list[str]:
    return [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()]


@pytest.mark.slow  # the campaign of tests/faults kills single steps, in every run
def test_a_killed_build_elsewhere_goes_on_to_the_same_bytes(finished: Path, tmp_path: Path):
    """Payloads hold no times and no paths of the machine, and a kill leaves nothing half written.

    The targets are a distilled patch, a repair from moments and a pruned width.
    """
    gap = "results/tiny/calibration/wikipedia/selection/llm-streamline/n2"
    targets = [
        f"{gap}/linearpatch+ft/scores/novels.json",
        f"{gap}/branch-refit/scores/novels.json",
        "results/tiny/calibration/wikipedia/width/narrow/n2/scores/novels.json",
    ]
    other = build_elsewhere_with_a_kill(tmp_path, *targets)
    made = payloads(other)
    assert len(made) > 10 and set(made) <= set(payloads(finished))
    assert different(made, finished, other) == []


def test_the_page_built_elsewhere_from_the_same_results_has_the_same_bytes(
    finished: Path, copy: Path
):
    reports = ["reports/tables.json", "reports/tables.html", "reports/tables/table02.csv"]
    for name in reports:
        (copy / name).unlink()
    run = snakemake(copy, "reports/tables.html")
    assert run.returncode == 0, run.stdout
    assert different(reports, finished, copy) == []


@pytest.mark.slow
def test_the_whole_page_elsewhere_has_the_same_bytes(finished: Path, tmp_path: Path):
    """Score by score, table by table, to the last byte of the page."""
    other = build_elsewhere_with_a_kill(tmp_path, "reports/tables.html")
    reports = ["reports/tables.json", "reports/tables.html", "reports/tables/table02.csv"]
    compared = reports + payloads(finished)
    assert len(compared) > 40
    assert different(compared, finished, other) == []


@pytest.mark.slow
def test_stored_targets_train_like_the_teacher_itself(copy: Path, edit):
    """Offline and fused are two ways to the same losses, through rules of their own."""
    edit(copy / "config/methods.yaml", "    objective: logits_kl\n", "    mode: offline\n")
    (folder,) = (copy / "results/tiny").rglob("linearpatch+ft")
    fused = pq.read_table(folder / "training.parquet").to_pydict()
    target = (folder / "patch.manifest.json").relative_to(copy)
    run = snakemake(copy, str(target))
    assert run.returncode == 0, run.stdout
    assert (folder.parent / "teacher/linearpatch/k100-wall-hidden/manifest.json").is_file()
    stored = pq.read_table(folder / "training.parquet").to_pydict()
    assert len(fused["step"]) == 9
    for name, values in fused.items():
        assert stored[name] == pytest.approx(values, abs=1e-5), name


MISTAKES = {
    "mistyped method": (
        "config/methods.yaml",
        "method: channel_scale",
        "method: chanel_scale",
        "recoveries.channel-scale: recovery method 'chanel_scale' does not exist: did you mean 'channel_scale'?",
    ),
    "no YAML": ("config/methods.yaml", "selections:", "selections: [", "not valid YAML"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_config_mistake_is_one_line_before_any_job(copy: Path, edit, mistake: str):
    file, old, new, expected = MISTAKES[mistake]
    edit(copy / file, old, new)
    run = snakemake(copy, "reports/tables.html")
    assert run.returncode == 1
    errors = [line for line in run.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and expected in errors[0]
    assert "Traceback" not in run.stdout


@pytest.mark.parametrize("level", ["n0", "n02"])
def test_a_number_of_layers_has_one_name_and_none_is_the_dense_model(finished: Path, level: str):
    run = snakemake(
        finished,
        "-n",
        f"results/tiny/calibration/wikipedia/selection/llm-streamline/{level}/none/scores/wikipedia.json",
    )
    assert run.returncode == 1 and "MissingRuleException" in run.stdout


def test_a_number_that_the_ranking_does_not_cover_ends_the_planning_in_one_line(finished: Path):
    target = "results/tiny/calibration/wikipedia/selection/sleb/n4/none/scores/wikipedia.json"
    run = snakemake(finished, "-n", target)
    assert run.returncode == 1
    errors = [line for line in run.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].startswith("error: sleb: n4: no table or figure")
    assert "Traceback" not in run.stdout


def test_lint_has_no_finding_but_the_accepted_one(finished: Path):
    """One locked environment serves all rules, so none names its own."""
    run = snakemake(finished, "--lint")
    titles = set(re.findall(r"^ +\* (.*?):$", run.stdout, flags=re.MULTILINE))
    assert titles == {"Specify a conda environment or container for each rule."}, run.stdout


def test_default_profile_plans_without_network():
    run = snakemake(CHECKOUT, "-n", "reports/tables.html", profile="config/config.yaml")
    assert run.returncode == 0, run.stdout


def test_conda_environment_has_the_pins_of_the_lock_file():
    lock = (CHECKOUT / "requirements.lock").read_text().splitlines()
    pins = dict(map(name_and_version, (line for line in lock if "==" in line)))
    environment = yaml.safe_load((CHECKOUT / "environment.yml").read_text())
    listed = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert len(listed) > 15
    for line in listed:
        package, version = name_and_version(line)
        assert pins[package] == version, line


def name_and_version(line: str) -> tuple[str, str]:
    package, _, version = line.partition("==")
    return re.sub(r"[-_.]+", "-", package).lower(), version.strip()
