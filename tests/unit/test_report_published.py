"""The printed values agree with one another, up to the rounding of their two decimals.

Where they do not, a note beside the value says so, and the tests know of no other places.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_example import ROOT

from lpsteps.config import load_definitions
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
    "table07": 6,
    "table08": 18,
    "table09": 12,
    "table10": 12,
    "table11": 63,
    "table12": 63,
    "table13": 90,
    "table14": 90,
    "table15": 90,
    "table16": 252,
    "table17": 100,
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
OURS_BY_TABLE = {
    "table05": TASKS,
    "table07": {"revision", "n_layers", "hidden_size", "parameters"},
    "table09": {"layers", "calibration_tokens"},
    "table10": {"layers", "calibration_tokens"},
}

# Questions of each benchmark. HellaSwag has so many that every number of two decimals is possible.
ITEMS = {
    "arc_challenge": 1172,
    "arc_easy": 2376,
    "boolq": 3270,
    "piqa": 1838,
    "winogrande": 1267,
    "wsc273": 273,
    "race": 1045,
    "copa": 100,
    "mmlu_stem": 3018,
    "mmlu_humanities": 4705,
    "mmlu_social_sciences": 3077,
    "mmlu_other": 3242,
}

# Same configuration, printed differently in Tables 1 and 6.
DIFFER_BETWEEN_TABLES = {"arc_challenge", "hellaswag", "piqa", "winogrande"}

# n_layers, hidden size, all parameters, parameters of one layer.
SIZES = {
    "llama-2-7b": (32, 4096, 6_738_415_616, 202_383_360),
    "llama-2-13b": (40, 5120, 13_015_864_320, 317_204_480),
    "llama-3-8b": (32, 4096, 8_030_261_248, 218_112_000),
    "baichuan-2-7b": (32, 4096, 7_505_973_248, 202_383_360),
    "deepseek-r1-distill-qwen-7b": (28, 3584, 7_615_616_512, 233_057_792),
    "deepseek-r1-distill-llama-8b": (32, 4096, 8_030_261_248, 218_112_000),
}


@cache
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
    ours = OURS | OURS_BY_TABLE.get(table, set())
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


def test_models_have_the_names_of_the_config() -> None:
    models = load_definitions([ROOT / "config/models.yaml"]).models
    found = {(cell.model, cell.model_title, cell.n_layers) for t in TABLES for cell in printed(t)}
    assert found == {(name, models[name].title, models[name].n_layers) for name in SIZES}
    for name, (_, *sizes) in SIZES.items():
        entry = models[name]
        assert [entry.hidden_size, entry.parameters, entry.layer_parameters] == sizes


ROWS_WITH_A_MEAN = {
    "table01": 35,
    "table02": 18,
    "table03": 8,
    "table04": 8,
    "table05": 5,  # besides a row of dashes
    "table06": 10,
    "table10": 3,
    "table11": 7,  # the misprint is no eighth
    "table12": 7,
    "table13": 12,
    "table14": 12,
    "table15": 12,
    "table16": 21,
}


@pytest.mark.parametrize(("table", "count"), ROWS_WITH_A_MEAN.items())
def test_averages_are_means(table: str, count: int) -> None:
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
    assert checked == count


def test_no_other_table_has_a_mean() -> None:
    for table in TABLES:
        columns = load_table(table, ROOT / "reports/tables").columns
        means = {column.id for column in columns if column.kind == "mean"}
        shown = any(cell.column in means for cell in printed(table))
        assert shown == (table in ROWS_WITH_A_MEAN), table


def test_mmlu_is_the_mean_over_all_questions() -> None:
    column = load_table("table17", ROOT / "reports/tables").column("mmlu_weighted_avg")
    weights = [ITEMS[name] for name in column.of]
    assert column.kind == "weighted_mean" and sum(weights) == 14_042
    wrong = set()
    for first, cells in rows("table17"):
        parts = [number(cells[name]) for name in column.of]
        mean = sum(w * p for w, p in zip(weights, parts, strict=True)) / sum(weights)
        cell = cells[column.id]
        if abs(mean - number(cell)) > 2 * HALF + 1e-9:
            wrong.add((first.model, first.row))
            assert (
                cell.note == f"printed {cell.text}, weighted mean of the categories is {mean:.2f}"
            )
    assert wrong == {
        ("baichuan-2-7b", "shortgpt+linearpatch"),
        ("baichuan-2-7b", "llm-streamline+linearpatch"),
    }


def test_a_patch_that_lowers_mmlu_is_noted() -> None:
    """Section I.2 speaks of improvement across models."""
    lowered = set()
    found = {(f.model, f.row): c["mmlu_weighted_avg"] for f, c in rows("table17")}
    for (model, row), cell in found.items():
        before = found.get((model, row.removesuffix("+linearpatch")))
        if before is not None and number(cell) < number(before):
            lowered.add((model, row))
            assert f"below its own baseline ShortGPT ({before.text})" in cell.note
    assert lowered == {("llama-3-8b", "shortgpt+linearpatch")}


def test_accuracies_are_fractions_of_the_questions() -> None:
    """Rounded to two decimals; in some rows on MMLU the digits behind are cut off instead."""
    checked, cut, wrong = 0, set(), set()
    for table in TABLES:
        for cell in printed(table):
            count = ITEMS.get(cell.column)
            if count is None or cell.value is None:
                continue
            checked += 1
            off = 100 * round(cell.value * count / 100) / count - cell.value
            if abs(off) <= HALF + 1e-9:
                assert "no fraction" not in cell.note
            elif 0 < off < 2 * HALF and not cell.note:
                cut.add((table, cell.model, cell.row))
            else:
                wrong.add((table, cell.model, cell.row, cell.column))
                assert f"printed {cell.text} is no fraction of {count} items" in cell.note
    assert checked == 840
    assert cut == {
        ("table17", "llama-2-13b", "shortgpt"),
        ("table17", "llama-2-13b", "llm-streamline"),
        ("table17", "llama-3-8b", "llm-streamline"),
        ("table17", "baichuan-2-7b", "dense"),
    }
    assert wrong == {
        ("table15", "llama-2-7b", "sleb+linearpatch", "wsc273"),
        ("table16", "deepseek-r1-distill-qwen-7b", "sleb", "race"),
        ("table17", "llama-2-7b", "shortgpt", "mmlu_stem"),
        ("table17", "llama-2-7b", "llm-streamline", "mmlu_stem"),
    }


@pytest.mark.parametrize(
    "table", ["table01", "table03", "table06", "table13", "table14", "table15", "table16"]
)
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


@pytest.mark.parametrize(("table", "count"), [("table01", 26), ("table16", 16)])
def test_ratios_follow_from_the_parameter_counts(table: str, count: int) -> None:
    checked = 0
    for first, cells in rows(table):
        # The share that width pruning removes does not follow from a number of layers.
        if first.n == 0 or first.selections == ("llm-pruner",):
            continue
        _, hidden, total, layer = SIZES[first.model]
        added = hidden**2 if first.recovery == "linearpatch" else 0
        ratio = removed_ratio(first.n, layer, added, total)
        assert ratio == pytest.approx(number(cells["ratio"]), abs=0.007), (first.model, first.row)
        checked += 1
    assert checked == count


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


def test_equal_configurations_are_printed_equal_in_all_tables() -> None:
    """Named otherwise: symmetric is where FT starts.

    Calibration is on 128 windows of WikiText-2 where a table does not vary it.
    """
    default = {
        "linearpatch+ft-kl-symmetric": "linearpatch+ft",
    }
    printed_as: dict[tuple[str | int | None, ...], dict[str, str]] = {}
    for table in TABLES:
        for cell in printed(table):
            kind = default.get(cell.recovery, cell.recovery)
            calibration = cell.calibration or "wikitext2"
            note = "odd" if cell.note else ""
            for selection in cell.selections or (None,):
                key = (cell.model, cell.n, selection, kind, calibration, cell.column)
                printed_as.setdefault(key, {})[f"{table}{note}"] = cell.text
    compared = 0
    for key, texts in printed_as.items():
        plain = {text for table, text in texts.items() if not table.endswith("odd")}
        if key[-1] in ("ratio", "distilled_windows", "top_k"):
            continue
        assert len(plain) <= 1, (key, texts)
        compared += len(texts) * (len(texts) - 1) // 2
    assert compared == 763


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


def test_equal_layers_without_repair_are_printed_equal() -> None:
    """By the lists of Table 8; a note names the one pair of rows for which this is not so."""
    removed = {
        (cell.model, cell.n, selection): frozenset(cell.layers or ())
        for cell in printed("table08")
        for selection in cell.selections
    }
    printed_as: dict[tuple[str, int, str, str], list[PublishedCell]] = {}
    for table in TABLES:
        for cell in printed(table):
            for selection in cell.selections if cell.recovery == "none" else ():
                key = (cell.model, cell.n, selection, cell.column)
                printed_as.setdefault(key, []).append(cell)
    different, compared = set(), 0
    for (model, n, one), (other_model, other_n, other) in itertools.combinations(removed, 2):
        if (model, n) != (other_model, other_n) or removed[model, n, one] != removed[
            model, n, other
        ]:
            continue
        for column in {key[-1] for key in printed_as} - {"layers"}:
            left = printed_as.get((model, n, one, column), [])
            right = printed_as.get((model, n, other, column), [])
            texts = {cell.text for cell in (*left, *right)}
            compared += bool(left and right)
            if left and right and len(texts) > 1:
                different.add((model, n, *sorted((one, other))))
                same = {cell.row for cell in (*left, *right)}
    assert different == {("llama-3-8b", 7, "llm-streamline", "taylor+")}
    notes = [c.note for t in ("table02", "table14") for c in printed(t) if c.row in same]
    assert sum("Table 8" in note for note in notes) == 2
    assert compared > 100


def test_links_of_the_models() -> None:
    models = load_definitions([ROOT / "config/models.yaml"]).models
    other = set()
    for cell in printed("table07"):
        repository = cell.text.removeprefix("https://huggingface.co/")
        assert repository.count("/") == 1 and cell.value is None and cell.words == cell.text
        if repository != getattr(models[cell.model].source, "repo", None):
            other.add(cell.model)
            assert cell.note
    assert other == {"llama-2-7b", "llama-2-13b", "llama-3-8b"}


@cache
def stated() -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "reports/published/quantities.yaml").read_text())
    assert content.keys() == {"quantities", "text_only", "text_claims"}
    return content


def cell_of(name: str) -> PublishedCell:
    table, model, n, row, column = name.split("/")
    found = (f for f in rows(table) if (f[0].model, f"n{f[0].n}", f[0].row) == (model, n, row))
    return next(found)[1][column]


def test_what_the_text_says_of_the_tables() -> None:
    """A number of the text stands for what rounds to it; a note names each that does not agree."""
    disagreeing = []
    for claim in stated()["text_claims"]:
        assert claim.keys() <= {"claim", "stated", "section", "cell", "minus", "note"}
        value = Decimal(cell_of(claim["cell"]).text)
        if "minus" in claim:
            value -= Decimal(cell_of(claim["minus"]).text)
        number_in_text = Decimal(str(claim["stated"]))
        last_digit = Decimal(1).scaleb(int(number_in_text.as_tuple().exponent))
        if abs(value - number_in_text) > last_digit / 2:
            disagreeing.append(str(number_in_text))
            assert f"{value}" in claim["note"], claim
        else:
            assert "note" not in claim, claim
    assert disagreeing == ["4", "2.13", "4.06", "52.25", "7.64"]
    assert len(stated()["text_claims"]) == 13


def test_what_the_text_alone_says_is_in_no_table() -> None:
    index = by_variant(cell for table in TABLES for cell in printed(table))
    known = {key[1:] for key in index}
    quoted = stated()["text_only"]
    assert len(quoted) == 4
    for entry in quoted:
        for selection in entry["selection"].split("|"):
            variant = (entry["model"], entry["n"], selection, entry["recovery"], None)
            assert (*variant, "qa_avg") in known or entry["n"] == 10, entry
            assert (*variant, entry["column"]) not in known


def test_stated_quantities_follow_from_the_sizes() -> None:
    value = {name: entry["value"] for name, entry in stated()["quantities"].items()}
    hidden, wide = NETWORKS["llama-2-7b"]
    k = value["k_of_the_text"]
    assert value["logits_memory_reduction"] == 32_000 / k
    # Words such as `about` and `up to` leave room for half a unit of the last digit but one.
    assert value["patch_parameters_against_ffn"] == pytest.approx(
        3 * hidden * wide / hidden**2, 0.01
    )
    assert value["offline_storage_against_hidden_states"] == pytest.approx(hidden / k, 0.03)
    shared = [entry for entry in stated()["quantities"].values() if entry.get("figure") == 2]
    assert [(e["model"], e["n"], e["value"]) for e in shared] == [
        ("llama-2-7b", 9, 2137.75),
        ("llama-2-7b", 9, 230.32),
    ]
    for entry in stated()["quantities"].values():
        allowed = {
            "value",
            "relation",
            "unit",
            "section",
            "figure",
            "model",
            "n",
            "condition",
            "note",
        }
        assert {"value", "section"} <= entry.keys() <= allowed


def test_stated_quantities_are_the_same_beside_our_tables_and_figures() -> None:
    value = {name: entry["value"] for name, entry in stated()["quantities"].items()}
    beside = {
        cell.column: cell.value for table in ("overheads", "storage") for cell in printed(table)
    }
    assert beside == {
        "size_ratio": value["patch_parameters_against_ffn"],
        "prefill_ratio": value["patch_speed_against_ffn"],
        "times_smaller": value["offline_storage_against_hidden_states"],
    }
    figure = yaml.safe_load((ROOT / "reports/figures/figure2.yaml").read_text())
    assert {entry["basis"]: entry["value"] for entry in figure["printed"]} == {
        "identity": value["sigma_d_raw"],
        "hadamard": value["sigma_d_hadamard"],
    }


def test_a_table_that_varies_the_calibration_names_it() -> None:
    named = Counter(
        (t, cell.calibration) for t in TABLES for cell in printed(t) if cell.calibration
    )
    sizes = ["wikitext2-64", "wikitext2", "wikitext2-256", "wikitext2-512"]
    assert named == {
        **{("table09", name): 3 for name in sizes},
        **{("table10", name): 4 for name in ("wikitext2", "ptb", "c4")},
    }
    # Each meets a row of ours.
    for table in ("table09", "table10"):
        asked = {
            (q.selection, q.recovery, q.calibration)
            for q in load_table(table, ROOT / "reports/tables").queries()
            if q
        }
        for cell in printed(table):
            assert {(s, cell.recovery, cell.calibration) for s in cell.selections} & asked
            assert cell.calibration is not None


def test_a_shared_row_is_found_under_both_selections() -> None:
    index = by_variant(printed("table01"))
    keys = [
        ("table01", "llama-2-7b", 7, name, "linearpatch", None, "copa")
        for name in ("shortgpt", "llm-streamline")
    ]
    assert index[keys[0]] is index[keys[1]]
    assert index["table01", "llama-2-7b", 0, None, "none", None, "ratio"].value is None


HEAD = ",".join(COLUMNS)
LINE = "mine,sleb,m,M,2,9,SLEB,sleb,none,,layers,1 2,layers,"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD}\n{LINE.replace(',2,9', ',x,9')}\n", "line 2"),
        (f"{HEAD}\n{LINE.replace('1 2', '1 2 3')}\n", "3 layers are listed but n is 2"),
        (f"{HEAD}\n{LINE.replace('mine', 'other')}\n", "must be 'mine'"),
        (f"{HEAD}\n{LINE.replace('SLEB,sleb', 'SLEB,none')}\n", "exactly where n is 0"),
        (f"{HEAD}\n{LINE.rpartition(',')[0]}\n", "line 2: expected 14 cells"),
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
    # On another text it is another cell.
    path.write_text(f"{HEAD}\n{LINE}\n{LINE.replace('none,,', 'none,novels,')}\n")
    assert {key[-2] for key in by_variant(read_published(path))} == {None, "novels"}
