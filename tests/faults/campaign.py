"""Try all faults on the tiny project and write what became of each: `make test-faults`.

By hand, a part of them on a project that is there already::

    python -m tests.faults.campaign --project FOLDER --kills 1 --rules calibrate,distill
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# As pytest has it: the helpers of the workflow tests and this package by their short names.
_TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(_TESTS), str(_TESTS / "workflow"), str(_TESTS.parent)]

from project import make_project, snakemake  # noqa: E402

from faults import machine_faults  # noqa: E402
from faults.commands import jobs  # noqa: E402
from faults.damaged_inputs import damaged_inputs  # noqa: E402
from faults.forked import preload  # noqa: E402
from faults.hub_faults import FAULTS, hub_faults  # noqa: E402
from faults.kills import kills_in_commit, random_kills  # noqa: E402
from faults.outcome import Outcome, Sandbox, wrong  # noqa: E402
from faults.reliability_page import reliability_page  # noqa: E402
from faults.whole_runs import disordered_times, killed_runs, two_at_once  # noqa: E402

SEED = 1


def one_per_rule(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first job of each rule."""
    return list({job["rule"]: job for job in reversed(found)}.values())[::-1]


def job_faults(project: Path, arguments: argparse.Namespace) -> Iterator[Outcome]:
    """All faults that hit single jobs."""
    sandbox = Sandbox(project)
    found = [job for job in jobs(project) if not arguments.rules or job["rule"] in arguments.rules]
    each = one_per_rule(found)
    yield from random_kills(sandbox, each if arguments.sample else found, arguments.kills, SEED)
    small = [job for job in each if job["rule"] in ("choose_layers", "render_report", "fetch_data")]
    yield from kills_in_commit(sandbox, small if arguments.sample else each)
    yield from damaged_inputs(sandbox, each, 1 if arguments.sample else 3, SEED)
    chosen = small if arguments.sample else each
    yield from machine_faults.full_disk(sandbox, chosen)
    yield from machine_faults.file_size_limit(sandbox, chosen)
    yield from machine_faults.read_only_folders(sandbox, chosen)
    yield from machine_faults.jumping_clock(sandbox, chosen, SEED)
    yield from machine_faults.little_memory(sandbox, chosen, (1, 16, 64))


def workflow_faults(project: Path, folder: Path, whole_kills: int) -> Iterator[Outcome]:
    """Faults of whole runs, and of the hub."""
    yield from killed_runs(project, folder, whole_kills, SEED)
    yield from two_at_once(project, folder)
    yield from disordered_times(project, folder, SEED)
    record = json.loads(
        (project / "resources/models/tiny/manifest.json.record.json").read_text(encoding="utf-8")
    )
    yield from hub_faults(project / "model", record["spec"], folder, FAULTS)


def main() -> int:
    """Run the campaign; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign")
    parser.add_argument("--project", type=Path, help="a finished tiny project; made if left out")
    parser.add_argument("--kills", type=int, default=3, help="random kills of each job")
    parser.add_argument("--whole-kills", type=int, default=8, help="kills of whole runs")
    parser.add_argument("--rules", type=lambda text: text.split(","), default=[], help="only these")
    parser.add_argument("--sample", action="store_true", help="single jobs only, and few of them")
    parser.add_argument("--page", type=Path, help="output: the table of faults and outcomes")
    parser.add_argument("--outcomes", type=Path, help="output: all outcomes as JSON")
    arguments = parser.parse_args()
    preload()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        project = folder / "project"
        if arguments.project is None:
            project = make_project(folder / "made")
            run = snakemake(project, "reports/tables.html")
            if run.returncode != 0:
                print(run.stdout)
                return 1
        else:
            shutil.copytree(arguments.project, project, symlinks=True)
        # Faults of jobs leave files with times in the future, which stop a whole run by themselves.
        for_jobs = folder / "for-jobs"
        shutil.copytree(project, for_jobs, symlinks=True)
        outcomes = []
        for outcome in job_faults(for_jobs, arguments):
            _show(outcome)
            outcomes.append(outcome)
        if not arguments.sample:
            for outcome in workflow_faults(project, folder, arguments.whole_kills):
                _show(outcome)
                outcomes.append(outcome)
    if arguments.outcomes is not None:
        arguments.outcomes.write_text(json.dumps([asdict(outcome) for outcome in outcomes]))
    if arguments.page is not None:
        arguments.page.write_text(reliability_page(outcomes), encoding="utf-8")
    counts = Counter(outcome.ending for outcome in outcomes)
    print(
        f"{len(outcomes)} faults:", ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
    )
    return 1 if wrong(outcomes) else 0


def _show(outcome: Outcome) -> None:
    """Print what is wrong at once; a campaign takes a while."""
    if outcome.ending == "wrong":
        print(f"wrong: {outcome.rule}: {outcome.fault}: {outcome.detail}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
