"""The tamper matrix: whatever is changed behind the page, the audit names the file and fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from project import snakemake

from lpsteps import provenance
from lpsteps.artifacts import sha256_file

LINEPATCH = "results/tiny/calibration/wikipedia/selection/llm-streamline/n2/linearpatch"
SHORTGPT = "results/tiny/calibration/wikipedia/selection/shortgpt/n2"
STATS = "results/tiny/calibration/wikipedia/stats.parquet"
SCORE = f"{LINEPATCH}/scores/wikipedia.json"
CELL = "table02/tiny/n2/llm-streamline+linearpatch/wikipedia"


def lpsteps(
    project: Path, *arguments: str, python: Path = Path(sys.executable)
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-m", "lpsteps.cli", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
    )


def flip_byte(path: str, position: int = -100) -> Callable[[Path], None]:
    def tamper(project: Path) -> None:
        content = bytearray((project / path).read_bytes())
        content[position] ^= 1
        (project / path).write_bytes(bytes(content))

    return tamper


def change_json(path: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def tamper(project: Path) -> None:
        content = json.loads((project / path).read_text())
        change(content)
        (project / path).write_text(json.dumps(content))

    return tamper


def remove(path: str) -> Callable[[Path], None]:
    return lambda project: (project / path).unlink()


def swap(first: str, second: str) -> Callable[[Path], None]:
    def tamper(project: Path) -> None:
        one, two = (project / first).read_bytes(), (project / second).read_bytes()
        (project / first).write_bytes(two)
        (project / second).write_bytes(one)

    return tamper


def in_turn(*tamperings: Callable[[Path], None]) -> Callable[[Path], None]:
    def tamper(project: Path) -> None:
        for single in tamperings:
            single(project)

    return tamper


def replace(path: str, old: str, new: str) -> Callable[[Path], None]:
    def tamper(project: Path) -> None:
        text = (project / path).read_text()
        assert old in text
        (project / path).write_text(text.replace(old, new, 1))

    return tamper


def change_parquet_value(project: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(project / STATS)
    tokens = table["tokens"].to_pylist()
    tokens[0] += 1
    column = table.schema.get_field_index("tokens")
    field = table.schema.field(column)
    import pyarrow as pa

    pq.write_table(table.set_column(column, field, pa.array(tokens, field.type)), project / STATS)


def change_tensor_element(project: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = project / LINEPATCH / "patch.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("weight"))
    changed = tensors[name].copy()
    changed[0] += 1e-3
    save_file({**tensors, name: changed}, path)


def shown_value(project: Path) -> str:
    cells = json.loads((project / "reports/tables.json").read_text())["cells"]
    return next(cell["text"] for cell in cells if cell["id"] == CELL)


def change_cell_in_page(project: Path) -> None:
    page = project / "reports/tables.html"
    text = page.read_text()
    start = text.index(f'data-cell="{CELL}"')
    value = shown_value(project)
    position = text.index(f">{value}<", start)
    page.write_text(text[:position] + ">1.23<" + text[position + len(value) + 2 :])


def change_panel_in_page(project: Path) -> None:
    replace("reports/tables.html", '"sha256":"', '"sha256":"0')(project)


def older_run(project: Path) -> None:
    """A score with its record from a run with other settings, put back among the newer files."""
    profile = project / "config/tiny.yaml"
    current = profile.read_text()
    kept = {name: (project / name).read_bytes() for name in (SCORE, f"{SCORE}.record.json")}
    old = project / "old"
    shutil.copytree(project / "results", old)
    profile.write_text(current.replace("wikipedia: 2", "wikipedia: 1"))
    assert profile.read_text() != current
    run = snakemake(project, SCORE)
    assert run.returncode == 0, run.stdout
    older = {name: (project / name).read_bytes() for name in kept}
    assert older[SCORE] != kept[SCORE]
    shutil.rmtree(project / "results")
    old.rename(project / "results")
    profile.write_text(current)
    for name, content in older.items():
        (project / name).write_bytes(content)


def csv_without_record(project: Path) -> None:
    replace("reports/tables/table02.csv", "measured", "published")(project)
    (project / "reports/tables/table02.csv.record.json").unlink()


def csv_with_record(project: Path) -> None:
    """As of an older run, whose record is as good."""
    path = project / "reports/tables/table02.csv"
    replace("reports/tables/table02.csv", "measured", "published")(project)

    def restate(record: dict) -> None:
        entry = next(e for e in record["outputs"] if e["path"] == "reports/tables/table02.csv")
        entry |= {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        record |= provenance.seal(record)

    change_json("reports/tables/table02.csv.record.json", restate)(project)


# What is done -> (how, text that some problem line must contain).
TAMPERINGS: dict[str, tuple[Callable[[Path], None], str]] = {
    "byte of a score": (flip_byte(SCORE), f"{SCORE}: was changed after evaluate_perplexity"),
    "number in a score": (
        change_json(SCORE, lambda c: c.update(value=1.0)),
        f"{SCORE}: was changed",
    ),
    "sample count of a score": (
        change_json(SCORE, lambda c: c.update(n=99)),
        f"{SCORE}: was changed",
    ),
    "value in the statistics": (change_parquet_value, f"{STATS}: was changed after calibrate"),
    "byte of the statistics": (flip_byte(STATS, 5000), f"{STATS}: was changed"),
    "byte of the windows": (
        flip_byte("results/tiny/windows/novels/test.parquet"),
        "novels/test.parquet: was changed after tokenize_corpus",
    ),
    "element of a tensor": (change_tensor_element, "linearpatch/patch.safetensors: was changed"),
    "patch manifest": (
        change_json(f"{LINEPATCH}/patch.manifest.json", lambda c: c.update(parameters=1)),
        f"{LINEPATCH}/patch.manifest.json: was changed",
    ),
    "plan": (
        change_json(f"{SHORTGPT}/plan.json", lambda c: c.update(layers=[1, 2])),
        f"{SHORTGPT}/plan.json: was changed after choose_layers",
    ),
    "ranking": (
        flip_byte("results/tiny/calibration/wikipedia/selection/sleb/ranking.parquet"),
        "sleb/ranking.parquet: was changed after rank_layers",
    ),
    "weights of the model": (
        flip_byte("resources/models/tiny/model.safetensors"),
        "models/tiny/model.safetensors: was changed after fetch_model",
    ),
    "tokenizer of the model": (
        replace("resources/models/tiny/tokenizer.json", '"the"', '"teh"'),
        "models/tiny/tokenizer.json: was changed",
    ),
    "manifest of the model": (
        change_json("resources/models/tiny/manifest.json", lambda c: c.update(n_layers=7)),
        "models/tiny/manifest.json: was changed",
    ),
    "benchmark data": (
        flip_byte("resources/data/copa/validation.parquet"),
        "data/copa/validation.parquet: was changed after fetch_data",
    ),
    "number type": (
        change_json("results/tiny/compute.json", lambda c: c.update(dtype="bfloat16")),
        "results/tiny/compute.json: was changed after choose_dtype",
    ),
    "settings in a record": (
        change_json(f"{SCORE}.record.json", lambda c: c["spec"].update(seed=1)),
        f"{SCORE}.record.json: was edited",
    ),
    "code digest in a record": (
        change_json(f"{STATS}.record.json", lambda c: c["code"].update({"lpsteps": "0" * 16})),
        f"{STATS}.record.json: was edited",
    ),
    "hash in a record": (
        change_json(f"{SCORE}.record.json", lambda c: c["outputs"][0].update(sha256="0" * 64)),
        f"{SCORE}.record.json: was edited",
    ),
    "record removed": (remove(f"{SCORE}.record.json"), f"{SCORE}.record.json: missing"),
    "record that is no JSON": (
        lambda project: (project / f"{STATS}.record.json").write_text("{"),
        f"{STATS}.record.json: not valid JSON",
    ),
    "intermediate removed": (
        remove(f"{LINEPATCH}/patch.safetensors"),
        "patch.safetensors: missing",
    ),
    "statistics removed": (remove(STATS), f"{STATS}: missing"),
    "two scores swapped": (
        swap(SCORE, f"{SHORTGPT}/none/scores/wikipedia.json"),
        f"{SCORE}: was changed",
    ),
    "two scores swapped with their records": (
        in_turn(
            swap(SCORE, f"{SHORTGPT}/none/scores/wikipedia.json"),
            swap(f"{SCORE}.record.json", f"{SHORTGPT}/none/scores/wikipedia.json.record.json"),
        ),
        f"{SCORE}: its record is that of",
    ),
    "one file from an older run": (older_run, f"{SCORE}: is not the file that reports/tables.json"),
    "cell of the tables": (
        change_json("reports/tables.json", lambda c: c["cells"][0].update(text="9.99")),
        "reports/tables.json: table02/tiny/n0/dense/",
    ),
    "cell removed from the tables": (
        change_json("reports/tables.json", lambda c: c["cells"].pop(0)),
        "the cell is gone",
    ),
    "table as CSV": (
        replace("reports/tables/table02.csv", "measured", "published"),
        "reports/tables/table02.csv: was changed after build_tables wrote it",
    ),
    "table as CSV without its record": (
        csv_without_record,
        "reports/tables/table02.csv.record.json: missing, so nothing tells what made",
    ),
    "table as CSV with its record": (
        csv_with_record,
        "reports/tables/table02.csv: is not the file that was made together with",
    ),
    "table as CSV removed": (
        remove("reports/tables/table02.csv"),
        "reports/tables/table02.csv: missing",
    ),
    "cell of the page": (
        change_cell_in_page,
        f"reports/tables.html: {CELL}: shows '1.23', the tables have",
    ),
    "source panel of the page": (
        change_panel_in_page,
        "reports/tables.html: is not what its templates",
    ),
    "template": (
        replace("reports/templates/style.css", "{", "{ "),
        "reports/templates/style.css: is not the file that reports/tables.html",
    ),
    "published value": (
        replace("reports/published/table02.csv", "18.45", "18.46"),
        "reports/published/table02.csv: is not the file that reports/tables.json",
    ),
    "code of a method": (
        lambda project: (project / "lpsteps/recovery/linearpatch.py").open("a").write("\nX = 1\n"),
        f"{LINEPATCH}/patch.manifest.json: made by other code: lpsteps.recovery.linearpatch",
    ),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_audit_names_the_tampered_file(copy: Path, warm_python: Path, tampering: str):
    tamper, expected = TAMPERINGS[tampering]
    tamper(copy)
    result = lpsteps(copy, "audit", python=warm_python)
    assert result.returncode == 1, result.stdout
    assert expected in result.stdout and "Traceback" not in result.stderr


def test_audit_of_the_untouched_page_counts_what_it_checked(finished: Path):
    result = lpsteps(finished, "audit")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("reports/tables.html: everything verifies; checked ")
    report = json.loads(lpsteps(finished, "audit", "--json").stdout)
    cells = json.loads((finished / "reports/tables.json").read_text())["cells"]
    assert report["numbers"] == sum(cell["status"] == "measured" for cell in cells) > 20
    assert report["files"] > 60 and report["bytes"] > 100_000 and report["problems"] == []


def test_comment_is_not_other_code(copy: Path):
    path = copy / "lpsteps/recovery/linearpatch.py"
    path.write_text(path.read_text() + "# A comment.\n")
    assert lpsteps(copy, "audit").returncode == 0


def test_missing_page_is_one_line(copy: Path):
    (copy / "reports/tables.html").unlink()
    result = lpsteps(copy, "audit")
    assert result.returncode == 1
    assert result.stderr.startswith("error: reports/tables.html: no such file")
    assert result.stderr.count("\n") == 1


def test_why_walks_back_to_the_source(finished: Path):
    result = lpsteps(finished, "why", CELL)
    assert result.returncode == 0
    lines = [line.strip() for line in result.stdout.splitlines()]
    for path in (
        SCORE,
        f"{LINEPATCH}/patch.manifest.json",
        STATS,
        "resources/models/tiny/manifest.json",
    ):
        assert any(line.startswith(path) for line in lines)
    assert any(line.startswith("made by build_patch") for line in lines)


def test_why_of_a_mistyped_cell_names_the_nearest(finished: Path):
    result = lpsteps(finished, "why", CELL.replace("wikipedia", "wikipeda"))
    assert result.returncode == 1 and f"did you mean '{CELL}', '" in result.stderr
    assert len(result.stderr) < 400


def test_tampered_score_turns_its_cells_missing_when_the_tables_are_built_again(copy: Path):
    flip_byte(SCORE)(copy)
    run = snakemake(
        copy, "reports/tables.html", "--force", "--allowed-rules", "build_tables", "render_report"
    )
    cells = json.loads((copy / "reports/tables.json").read_text())["cells"]
    cell = next(cell for cell in cells if cell["id"] == CELL)
    assert cell["status"] == "missing" and f"{SCORE}: was changed" in cell["reason"], run.stdout
