from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from report_example import ROOT

from lpsteps.errors import LpstepsError
from lpsteps.report.definitions import list_tables, load_table, read_table

SHIPPED = ROOT / "reports/tables"


def test_shipped_tables_are_found_and_valid() -> None:
    names = list_tables(SHIPPED)
    assert {"beyond", *(f"table{number:02}" for number in range(1, 18))} <= set(names)
    for name in names:
        assert load_table(name, SHIPPED).id == name


def test_bars_at_the_top_of_the_page_have_names_of_their_own() -> None:
    """They stand without the groups of their rows."""
    tables = [load_table(name, SHIPPED) for name in list_tables(SHIPPED)]
    shown = [table for table in tables if table.glance]
    assert len(shown) > 2
    for table in shown:
        labels = [row.label for row in table.rows]
        assert len(set(labels)) == len(labels), table.id


def test_queries_and_benchmarks_follow_the_file() -> None:
    table = load_table("table06", SHIPPED)
    assert table.queries() == (
        None,
        ("llm-streamline", "none", None),
        ("llm-streamline", "channel-scale", None),
        ("llm-streamline", "linearpatch", None),
        ("llm-streamline", "linearpatch+ft", None),
    )
    assert table.variants() == table.queries()
    assert table.benchmarks()[:4] == ("wikitext2", "c4", "ptb", "wikipedia")
    assert "qa_avg" not in table.benchmarks()


@pytest.mark.parametrize(
    ("name", "recoveries"),
    [
        ("table03", ["streamline-ffn+ft", "linearpatch", "linearpatch+ft"]),
        ("table04", ["streamline-ffn+ft", "linearpatch", "linearpatch+ft"]),
        (
            "table05",
            [
                "streamline-ffn+ft",
                "streamline-ffn+ft-kl",
                "linearpatch+ft-mse-symmetric",
                "linearpatch+ft-kl-diagonal",
                "linearpatch+ft-kl-symmetric",
            ],
        ),
        (
            "table11",
            [
                "linearpatch",
                *(f"linearpatch+ft-samples-{n}" for n in (32, 64, 2500)),
                "linearpatch+ft",
                "linearpatch+ft-samples-7500",
            ],
        ),
        (
            "table12",
            ["linearpatch", "linearpatch+ft-top-50", "linearpatch+ft", "linearpatch+ft-top-200"],
        ),
    ],
)
def test_rows_of_the_tables_on_distillation(name: str, recoveries: list[str]) -> None:
    table = load_table(name, SHIPPED)
    assert [row.recovery for row in table.pruned_rows] == recoveries
    assert {row.selection for row in table.pruned_rows} == {"llm-streamline"}


def test_what_the_paper_tunes_on() -> None:
    """5,000 samples of 2,048 tokens, in Table 11 others, too.

    Of LLM-Streamline's network it does not say how many.
    """
    stated = {
        (name, row.id): row.printed_tokens
        for name in ("table03", "table04", "table05", "table06", "table11", "table12")
        for row in load_table(name, SHIPPED).rows
        if row.printed_tokens is not None
    }
    rows = [
        ("table03", "linearpatch+ft"),
        ("table04", "linearpatch+ft"),
        ("table05", "linearpatch-mse-symmetric"),
        ("table05", "linearpatch-kl-diagonal"),
        ("table05", "linearpatch-kl-symmetric"),
        ("table06", "linearpatch+ft"),
        ("table11", "linearpatch+ft"),
        ("table12", "top-50"),
        ("table12", "top-100"),
        ("table12", "top-200"),
    ]
    others = {("table11", f"samples-{n}"): n * 2048 for n in (2500, 7500)}
    assert stated == dict.fromkeys(rows, 5000 * 2048) | others


def test_a_table_of_layers_needs_plans_but_no_variants() -> None:
    table = load_table("table08", SHIPPED)
    assert ("sleb", "none", None) in table.queries()
    assert table.variants() == ()
    assert table.benchmarks() == ()


def test_direction_of_columns() -> None:
    columns = {
        column.id: column.higher_is_better for column in load_table("table01", SHIPPED).columns
    }
    assert columns["copa"] is True and columns["qa_rp"] is True and columns["ratio"] is None
    assert {c.higher_is_better for c in load_table("table02", SHIPPED).columns} == {False}


def test_unknown_table_names_the_nearest() -> None:
    with pytest.raises(LpstepsError, match="did you mean 'table01'"):
        load_table("tabel01", SHIPPED)


def test_a_row_with_a_calibration_of_its_own_is_another_query() -> None:
    queries = load_table("beyond", SHIPPED).queries()
    assert ("llm-streamline", "branch-refit", None) in queries
    assert ("llm-streamline", "branch-refit", "wikipedia-32+own") in queries


VALID = """
id: mine
title: T
caption: C
columns:
  - {id: copa, title: CoPa, unit: percent}
  - {id: avg, title: Avg, kind: mean, unit: percent, of: [copa]}
rows:
  - {id: dense, label: Dense}
  - {id: sleb, label: SLEB, selection: sleb}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "label: Dense",
            "label: Dense, calibration: c",
            "'dense': calibration: 'c': the dense model",
        ),
        ("selection: sleb", "recovery: linearpatch", "recovery: 'linearpatch': the dense model"),
        ("of: [copa]", "of: [cupa]", "'cupa' is no benchmark column .* did you mean 'copa'"),
        (
            "kind: mean, unit: percent, of: [copa]",
            "kind: mean, unit: percent",
            "`of` lists benchmarks for kind mean, weighted_mean, retained or share_closed",
        ),
        ("id: sleb,", "id: dense,", "row 'dense' is there twice"),
        ("{id: avg,", "{id: copa,", "column 'copa' is there twice"),
        ("selection: sleb", "recovery: none", "only the dense row"),
        ("selection: sleb", "select: sleb", "select"),
        ("unit: percent}", "unit: furlong}", "furlong"),
        ("id: mine", "id: other", "must be the file's name, 'mine'"),
        ("title: T", "title: [", "not valid YAML"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert read_table(written(tmp_path, VALID)).benchmarks() == ("copa",)
    assert old in VALID
    with pytest.raises(LpstepsError, match=message) as caught:
        read_table(written(tmp_path, VALID.replace(old, new, 1)))
    assert "\n" not in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_a_definition_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"id: mine\ntitle: \xff\n")
    with pytest.raises(LpstepsError, match=r"mine\.yaml: cannot be read \(not UTF-8 text\);"):
        read_table(path)


def test_retained_needs_a_dense_row(tmp_path: Path) -> None:
    text = VALID.replace("kind: mean", "kind: retained").replace(
        "  - {id: dense, label: Dense}\n", ""
    )
    with pytest.raises(LpstepsError, match="needs a dense row"):
        read_table(written(tmp_path, text))


SHARE = """
id: mine
title: T
caption: C
reference_row: cut
columns:
  - {id: novels, title: Novels, unit: perplexity, shown: false}
  - {id: copa, title: CoPa, unit: percent}
  - {id: share, title: S, kind: share_closed, unit: share, of: [novels], against: [patched]}
  - {id: cost, title: P, kind: parameters_added, unit: parameters}
rows:
  - {id: dense, label: Dense}
  - {id: cut, label: Cut, selection: sleb, group: G}
  - {id: patched, label: Patched, selection: sleb, recovery: linearpatch, group: G}
figure:
  rows: {cut: Cut, patched: Patched}
  panels:
    - {y: novels, title: Perplexity, scale: log}
    - {y: share, title: Share}
curves:
  rows: {patched: Patched}
"""


def test_a_table_with_shares_and_a_figure(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, SHARE))
    assert table.benchmarks() == ("novels", "copa")
    assert {c.id: c.higher_is_better for c in table.columns} == {
        "novels": False,
        "copa": True,
        "share": True,
        "cost": None,
    }
    assert table.number is None and table.figure is not None
    assert table.curves is not None and table.curves.rows == {"patched": "Patched"}
    assert load_table("table06", SHIPPED).number == 6


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("reference_row: cut\n", "", "a share needs a dense row and `reference_row`"),
        ("  - {id: dense, label: Dense}\n", "", "a share needs a dense row and `reference_row`"),
        ("reference_row: cut", "reference_row: dense", "reference_row: 'dense' is no pruned row"),
        ("of: [novels]", "of: [copa]", "'copa' is no perplexity"),
        (
            "kind: share_closed, unit: share, of: [novels], against: [patched]",
            "kind: mean, unit: percent, of: [novels]",
            "of: 'novels' is in perplexity, but mean needs percent",
        ),
        ("against: [patched]", "against: [patch]", "against: 'patch' .* did you mean 'patched'"),
        ("unit: share", "unit: percent", "kind share_closed is in share"),
        ("unit: percent", "unit: tokens", "'tokens': kind benchmark is in percent or perplexity"),
        (
            "kind: parameters_added, unit: parameters",
            "kind: parameters_added, unit: parameters, against: [cut]",
            "`against` lists rows for kind share_closed",
        ),
        ("rows: {cut: Cut", "rows: {dense: Dense", "figure: 'dense' is no pruned row"),
        ("y: novels", "y: novel", "'novel' is no column of scores, did you mean 'novels'"),
        ("y: share", "y: cost", "'cost' is no column of scores"),
        ("title: Share}", "title: Share, scale: log}", "only perplexities have a log axis"),
        ("rows: {patched: P", "rows: {dense: P", "curves: 'dense' is no pruned row"),
        (
            "rows: {patched: Patched}",
            "rows: {" + ", ".join(f"r{number}: R" for number in range(8)) + "}",
            r"curves\.rows",
        ),
        ("kind: parameters_added, unit: parameters", "kind: top_k, unit: tokens", "is in outcomes"),
        ("group: G}\nfigure", "group: G, printed_tokens: 0}\nfigure", "printed_tokens"),
        (
            "{cut: Cut, patched: Patched}",
            "{" + ", ".join(f"r{number}: R" for number in range(9)) + "}",
            r"figure\.rows",
        ),
    ],
)
def test_mistakes_in_shares_and_figures_are_told_in_one_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in SHARE
    with pytest.raises(LpstepsError, match=message) as caught:
        read_table(written(tmp_path, SHARE.replace(old, new, 1)))
    assert "\n" not in str(caught.value)


def test_the_loader_imports_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "lm_eval", "pandas", "pyarrow", "datasets", "jinja2"]
    program = (
        "import sys; before = set(sys.modules); import lpsteps.report.definitions; "
        f"print([name for name in {heavy} if name in set(sys.modules) - before])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
