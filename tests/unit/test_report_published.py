"""The printed values agree with one another, up to the rounding of their two decimals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from report_example import ROOT

from lpsteps.errors import LpstepsError
from lpsteps.report.aggregates import removed_ratio
from lpsteps.report.definitions import load_table
from lpsteps.report.published import COLUMNS, PublishedCell, by_variant, read_published

HALF = 0.005  # a printed number stands for anything that rounds to it
COUNTS = {
    "table01": 420,
    "table02": 72,
    "table03": 88,
    "table04": 40,
    "table05": 36,
    "table06": 75,
    "table08": 18,
    "table11": 63,
    "table12": 63,
}
TABLES = list(COUNTS)
TASKS = {
    "arc_challenge",
    "arc_easy",
    "boolq",
    "hellaswag",
    "piqa",
    "winogrande",
    "wsc273",
    "race",
    "copa",
}
OURS = {"wikipedia", "novels", "stories", "embedded_ppl_avg", "distilled_tokens"}

# Same configuration, printed differently in Tables 1 and 6.
DIFFER_BETWEEN_TABLES = {"arc_challenge", "hellaswag", "piqa", "winogrande"}

# n_layers, hidden size, all parameters, parameters of one layer.
SIZES = {
    "llama-2-7b": (32, 4096, 6_738_415_616, 202_383_360),
    "llama-2-13b": (40, 5120, 13_015_864_320, 317_204_480),
    "llama-3-8b": (32, 4096, 8_030_261_248, 218_112_000),
}


def printed(table: str) -> tuple[PublishedCell, ...]:
    return read_published(ROOT / f"reports/published/{table}.csv")


def rows(table: str) -> Iterator[tuple[PublishedCell, dict[str, PublishedCell]]]:
    grouped: dict[tuple[str, int, str], dict[str, PublishedCell]] = {}
    for cell in printed(table):
        grouped.setdefault((cell.model, cell.n, cell.row), {})[cell.column] = cell
    for cells in grouped.values():
        yield next(iter(cells.values())), cells


def number(cell: PublishedCell) -> float:
    assert cell.value is not None, cell
    return cell.value


@pytest.mark.parametrize("table", TABLES)
def test_every_row_prints_every_column_that_the_paper_has(table: str) -> None:
    definition = load_table(table, ROOT / "reports/tables")
    ours = OURS | (TASKS if table == "table05" else set())
    expected = {column.id for column in definition.columns} - ours
    for first, cells in rows(table):
        # The row without tuning has no number of samples and no K.
        without = {"distilled_windows", "top_k"} if first.label == "w/o FT" else set[str]()
        assert cells.keys() == expected - without, (first.model, first.n, first.row)
    units = {column.id: column.unit for column in definition.columns}
    assert all(cell.unit == units[cell.column] for cell in printed(table))


@pytest.mark.parametrize(("table", "count"), COUNTS.items())
def test_number_of_printed_cells(table: str, count: int) -> None:
    assert len(printed(table)) == count


@pytest.mark.parametrize("table", [name for name in TABLES if name != "table08"])
def test_averages_are_means(table: str) -> None:
    checked = 0
    for column in load_table(table, ROOT / "reports/tables").columns:
        for first, cells in rows(table):
            if column.kind == "mean" and cells.keys() >= {column.id, *column.of}:
                if cells[column.of[0]].value is None:  # a row of dashes
                    assert cells[column.id].value is None
                    continue
                if cells[column.id].note.startswith("misprint"):
                    assert (first.row, column.id) == ("linearpatch", "qa_avg")
                    assert cells[column.id].text == "59.60"
                    continue
                mean = sum(number(cells[name]) for name in column.of) / len(column.of)
                # The parts' own rounding and that of the printed mean.
                assert abs(mean - number(cells[column.id])) <= 2 * HALF + 1e-9, (first.row, mean)
                checked += 1
    assert checked >= 5


@pytest.mark.parametrize("table", ["table01", "table03", "table06"])
def test_retained_performance_is_the_mean_of_ratios(table: str) -> None:
    column = next(c for c in load_table(table, ROOT / "reports/tables").columns if c.id == "qa_rp")
    dense = {first.model: cells for first, cells in rows(table) if first.n == 0}
    checked = 0
    for first, cells in rows(table):
        reference = dense[first.model]
        low, high = 0.0, 0.0
        for name in column.of:
            after, before = number(cells[name]), number(reference[name])
            shift = 0.0 if first.n == 0 else HALF
            low += 100 * (after - shift) / (before + shift) / len(column.of)
            high += 100 * (after + shift) / (before - shift) / len(column.of)
        assert low - HALF <= number(cells["qa_rp"]) <= high + HALF, (
            first.model,
            first.n,
            first.row,
        )
        checked += 1
    assert checked >= 5


def test_the_ratio_of_averages_would_not_do() -> None:
    row = next(
        c for f, c in rows("table01") if (f.model, f.n, f.row) == ("llama-2-7b", 7, "linearpatch")
    )
    dense = next(c for f, c in rows("table01") if (f.model, f.n) == ("llama-2-7b", 0))
    ratio = 100 * number(row["qa_avg"]) / number(dense["qa_avg"])
    assert abs(ratio - number(row["qa_rp"])) > 0.3


def test_ratios_follow_from_the_parameter_counts() -> None:
    checked = 0
    for first, cells in rows("table01"):
        # The share that width pruning removes does not follow from a number of layers.
        if first.n == 0 or first.selections == ("llm-pruner",):
            continue
        _, hidden, total, layer = SIZES[first.model]
        added = hidden**2 if first.recovery == "linearpatch" else 0
        ratio = removed_ratio(first.n, layer, added, total)
        assert ratio == pytest.approx(number(cells["ratio"]), abs=0.0065), (first.model, first.row)
        checked += 1
    assert checked == 26


def test_equal_configurations_are_printed_equal_in_tables_1_and_6() -> None:
    first, second = by_variant(printed("table01")), by_variant(printed("table06"))
    different = set()
    compared = 0
    for key, cell in second.items():
        twin = first.get(("table01", *key[1:]))
        if twin is not None:
            compared += 1
            if twin.text != cell.text:
                assert twin.note and cell.note
                different.add(cell.column)
    assert compared >= 50
    assert different == DIFFER_BETWEEN_TABLES


# Hidden size and width of the feed-forward network.
NETWORKS = {"llama-2-7b": (4096, 11_008), "llama-3-8b": (4096, 14_336)}


def test_ratios_after_training_follow_from_what_is_inserted() -> None:
    checked = 0
    for first, cells in rows("table04"):
        if first.n == 0:
            continue
        hidden, wide = NETWORKS[first.model]
        network = first.recovery.startswith("streamline-ffn")
        added = 3 * hidden * wide if network else hidden**2
        _, _, total, layer = SIZES[first.model]
        ratio = removed_ratio(first.n, layer, added, total)
        assert ratio == pytest.approx(number(cells["ratio"]), abs=0.007), (first.model, first.row)
        checked += 1
    assert checked == 6


def test_equal_configurations_are_printed_equal_in_the_tables_on_distillation() -> None:
    """Named otherwise: 5,000 samples and K = 100 are the defaults, symmetric is where FT starts."""
    default = {
        "linearpatch+ft-samples-5000": "linearpatch+ft",
        "linearpatch+ft-kl-symmetric": "linearpatch+ft",
    }
    printed_as: dict[tuple[str, int, str | None, str, str], dict[str, str]] = {}
    for table in TABLES:
        for cell in printed(table):
            kind = default.get(cell.recovery, cell.recovery)
            note = "odd" if cell.note else ""
            for selection in cell.selections or (None,):
                key = (cell.model, cell.n, selection, kind, cell.column)
                printed_as.setdefault(key, {})[f"{table}{note}"] = cell.text
    compared = 0
    for key, texts in printed_as.items():
        plain = {text for table, text in texts.items() if not table.endswith("odd")}
        if key[-1] in ("ratio", "distilled_windows", "top_k"):
            continue
        assert len(plain) <= 1, (key, texts)
        compared += len(texts) > 1
    assert compared > 150


def test_the_paper_stores_ten_bytes_an_outcome() -> None:
    storage = {first.row: cells["target_storage"].text for first, cells in rows("table12")}
    samples = {first.row: cells["target_storage"].text for first, cells in rows("table11")}
    gigabytes = {f"top-{k}": f"{5000 * 2048 * k * 10 / 1e9:.0f}G" for k in (50, 100, 200)}
    assert storage == {"linearpatch": "-", **gigabytes}
    assert samples == {
        "linearpatch": "-",
        **{f"samples-{n}": f"{n * 2048 * 100 * 10 / 1e9:.0f}G" for n in (2500, 5000, 7500)},
    }


def test_layer_lists() -> None:
    for cell in printed("table08"):
        assert cell.layers is not None
        assert len(set(cell.layers)) == cell.n
        assert all(0 <= layer < cell.n_layers for layer in cell.layers)
        if "shortgpt" in cell.selections or "llm-streamline" in cell.selections:
            assert list(cell.layers) == list(range(cell.layers[0], cell.layers[0] + cell.n))


def test_a_shared_row_is_found_under_both_selections() -> None:
    index = by_variant(printed("table01"))
    keys = [
        ("table01", "llama-2-7b", 7, name, "linearpatch", "copa")
        for name in ("shortgpt", "llm-streamline")
    ]
    assert index[keys[0]] is index[keys[1]]
    assert index["table01", "llama-2-7b", 0, None, "none", "ratio"].value is None


HEAD = ",".join(COLUMNS)
LINE = "mine,sleb,m,M,2,9,SLEB,sleb,none,layers,1 2,layers,"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD}\n{LINE.replace(',2,9', ',x,9')}\n", "line 2"),
        (f"{HEAD}\n{LINE.replace('1 2', '1 2 3')}\n", "3 layers are listed but n is 2"),
        (f"{HEAD}\n{LINE.replace('mine', 'other')}\n", "must be 'mine'"),
        (f"{HEAD}\n{LINE.replace('SLEB,sleb', 'SLEB,none')}\n", "exactly where n is 0"),
        (f"{HEAD}\n{LINE.rpartition(',')[0]}\n", "line 2: expected 13 cells"),
        (f"{HEAD.replace('note', 'notes')}\n", "line 1: the columns must be"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(f"{HEAD}\n{LINE}\n")
    assert read_published(path)[0].layers == (1, 2)
    path.write_text(text)
    with pytest.raises(LpstepsError, match=message):
        read_published(path)


def test_the_same_cell_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(f"{HEAD}\n{LINE}\n{LINE}\n")
    with pytest.raises(LpstepsError, match="line 3: the same cell as line 2"):
        by_variant(read_published(path))
