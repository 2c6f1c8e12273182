"""A profile with so many results that they do not fit onto a command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from project import PROFILE, snakemake, write_yaml

# What Linux takes as one argument, and Snakemake gives the whole command to a shell as one.
LONGEST_ARGUMENT = 32 * os.sysconf("SC_PAGE_SIZE")
ROWS = 250
ARGUMENTS = "results/arguments/build_tables.txt"


def change(path: Path, **entries: object) -> None:
    """Add entries to mappings of a YAML file, by the key of the mapping."""
    content = yaml.safe_load(path.read_text())
    for key, added in entries.items():
        content[key].update(added)
    write_yaml(path, content)


def test_a_table_of_many_rows_is_built(copy: Path):
    names = [f"linearpatch-under-one-of-very-many-names-{number:03}" for number in range(ROWS)]
    content = yaml.safe_load((copy / "config/methods.yaml").read_text())
    entry = content["recoveries"]["linearpatch"]
    change(copy / "config/methods.yaml", recoveries=dict.fromkeys(names, entry))
    change(copy / PROFILE, tables={"many": {"tiny": [2]}})
    table = {
        "id": "many",
        "title": "Many rows",
        "caption": "One repair by many names.",
        "columns": [
            {"id": name, "title": name, "unit": "perplexity"} for name in ("novels", "wikipedia")
        ],
        "rows": [
            {"id": name, "label": name, "selection": "llm-streamline", "recovery": name}
            for name in names
        ],
    }
    write_yaml(copy / "reports/tables/many.yaml", table)
    # Nobody made these, so that no number comes of them; reading their names is the point.
    cut = copy / "results/tiny/calibration/wikipedia/selection/llm-streamline/n2"
    for name in names:
        (cut / name / "scores").mkdir(parents=True)
        for file in ("patch.manifest.json", "scores/novels.json", "scores/wikipedia.json"):
            (cut / name / file).write_text("{}")

    run = snakemake(
        copy, "reports/tables.json", "--allowed-rules", "write_arguments", "build_tables"
    )
    assert run.returncode == 0, run.stdout
    assert (copy / ARGUMENTS).stat().st_size > LONGEST_ARGUMENT
    payload = json.loads((copy / "reports/tables.json").read_text())
    cells = [cell for cell in payload["cells"] if cell["table"] == "many"]
    assert len(cells) == 2 * ROWS
    assert {cell["status"] for cell in cells} == {"missing"}
    assert all("patch.manifest.json.record.json: missing" in cell["reason"] for cell in cells)
    assert any(cell["status"] == "measured" for cell in payload["cells"])
    record = json.loads((copy / "reports/tables.json.record.json").read_text())
    read = {entry["path"] for entry in record["inputs"]}
    folders = [(cut / name).relative_to(copy) for name in names]
    assert read >= {f"{folder}/scores/novels.json" for folder in folders}
    # How the step got them is none of what its tables rest on, and the record says it in full.
    assert ARGUMENTS not in read
    lines = (copy / ARGUMENTS).read_text().splitlines()
    assert json.loads(lines[lines.index("--spec") + 1]) == record["spec"]
    assert read < set(lines)
    assert record["command"][3 : 3 + len(lines)] == lines


@pytest.mark.slow
def test_equal_arguments_build_nothing_again(copy: Path):
    """What they say decides, not when the file was written."""
    template = copy / "workflow/templates/build_tables.txt.j2"
    before = (copy / ARGUMENTS).read_bytes()
    os.utime(template)
    os.utime(copy / ARGUMENTS)
    run = snakemake(copy, "-n", "reports/tables.html")
    assert "Nothing to be done" in run.stdout, run.stdout
    (copy / ARGUMENTS).unlink()
    run = snakemake(copy, ARGUMENTS)
    assert run.returncode == 0 and (copy / ARGUMENTS).read_bytes() == before
    run = snakemake(copy, "-n", "reports/tables.html")
    assert "Nothing to be done" in run.stdout, run.stdout
