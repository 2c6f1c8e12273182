"""What Snakemake's plan becomes as data, of a workflow of two rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from lpsteps import cli
from lpsteps.dry_run import plan
from lpsteps.errors import LpstepsError

SNAKEFILE = """
rule listing:
    input: "source.txt"
    output: "results/listing.txt"
    log: "logs/listing/all.log"
    params: spec="{}", files=["a", "b"]
    shell: "touch {output}"

rule step:
    input: rules.listing.output
    output: "results/step.txt", "results/step.txt.record.json"
    params: code={"lpsteps.steps.x": "aa"}, env="cc"
    shell: "touch {output}"
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("Snakefile").write_text(SNAKEFILE)
    Path("source.txt").write_text("text")


def test_a_job_has_the_params_of_its_rule_that_a_record_could_hold():
    listing, step = plan(["results/step.txt"])
    assert (listing.name, listing.params) == ("listing/all", {"spec": "{}"})
    assert step.params == {"code": {"lpsteps.steps.x": "aa"}, "env": "cc"}
    assert (step.outputs, step.awaited) == (["results/step.txt"], ["results/listing.txt"])


@pytest.mark.parametrize("target", ["source.txt", "--list-rules"])
def test_what_no_rule_makes_is_refused(target: str, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(LpstepsError, match="snakemake cannot plan the run"):
        cli.status([target])
    assert f"No rule to produce {target}" in capfd.readouterr().err
