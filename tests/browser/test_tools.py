"""Sorting, filters, other forms of the numbers, exports and colours of the page in a real browser."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from browsing import Browser
from playwright.sync_api import Page

Cells = dict[str, dict[str, Any]]

TABLE = "table01-smollm2-135m"
FIVE = "table01/smollm2-135m/n5"


def rows_of(page: Page, table: str, body: int) -> list[str]:
    """Return the row of the first cell in each row of a section that is shown, in order."""
    ids: list[str] = page.evaluate(
        f"""[...document.getElementById("{table}").tBodies[{body}].rows]
        .filter((row) => row.checkVisibility())
        .map((row) => row.querySelector("[data-cell]")?.dataset.cell)
        .filter(Boolean)"""
    )
    return [name.split("/")[3] for name in ids]


def test_a_column_sorts_best_first_then_worst_first_then_as_in_the_paper(
    page: str, browser: Browser, cells: Cells
) -> None:
    def value(row: str) -> float | None:
        found: float | None = cells[f"{FIVE}/{row}/arc_easy"]["value"]
        return found

    with browser.open(page, 1280) as shown:
        paper = rows_of(shown, TABLE, 1)
        other = rows_of(shown, TABLE, 2)
        head = shown.locator(f"#{TABLE} th[data-column=arc_easy]")
        head.locator("button").click()
        best = rows_of(shown, TABLE, 1)
        assert head.get_attribute("aria-sort") == "descending"
        told = shown.locator("#shown-count").text_content()
        head.locator("button").click()
        worst = rows_of(shown, TABLE, 1)
        head.locator("button").click()
        assert rows_of(shown, TABLE, 1) == paper and rows_of(shown, TABLE, 2) == other
        assert head.get_attribute("aria-sort") == "none"
        assert shown.locator(f"#{TABLE} .of-group").count() == 0
    measured = [row for row in paper if value(row) is not None]
    absent = [row for row in paper if value(row) is None]
    assert best != paper
    assert best == sorted(measured, key=lambda row: -(value(row) or 0)) + absent
    assert worst == sorted(measured, key=lambda row: value(row) or 0) + absent
    assert told == "Sorted by ARC-e, best first"


def test_a_perplexity_sorts_with_the_lowest_first(
    page: str, browser: Browser, cells: Cells
) -> None:
    with browser.open(page, 1280) as shown:
        shown.locator("#table02-smollm2-135m th[data-column=novels] button").click()
        names = rows_of(shown, "table02-smollm2-135m", 1)
        ordered = shown.locator("#table02-smollm2-135m th[data-column=novels]")
        assert ordered.get_attribute("data-order") == "best"
        assert ordered.get_attribute("aria-sort") == "ascending"
        # Heard, too, while the choices of the view are closed.
        assert not shown.locator("#find-method").is_visible()
        assert shown.locator("#shown-count").is_visible()
    values = [cells[f"table02/smollm2-135m/n5/{row}/novels"]["value"] for row in names]
    known = [value for value in values if value is not None]
    assert len(known) > 2 and known == sorted(known) == values[: len(known)]


def test_sorted_rows_say_which_group_they_are_of(page: str, browser: Browser) -> None:
    with browser.open(page, 1280) as shown:
        table = shown.locator("section.table table:has(tr.choice)").first
        name = table.get_attribute("id")
        heading = table.locator("tr.choice").first
        text = (heading.text_content() or "").strip()
        table.locator("th .sort").first.click()
        assert not heading.is_visible()
        notes = shown.locator(f"#{name} .of-group")
        assert text and text in [note.strip() for note in notes.all_text_contents()]


def test_filters_leave_the_rows_and_tables_that_fit(page: str, browser: Browser) -> None:
    with browser.open(page, 1280) as shown:
        shown.locator("#controls summary").click()
        shown.locator("#find-method").fill("linearpatch")
        kept = rows_of(shown, TABLE, 1)
        assert kept and all("linearpatch" in row for row in kept)
        assert rows_of(shown, TABLE, 0) == ["dense"]
        assert re.fullmatch(r"\d+ of \d+ rows", shown.locator("#shown-count").inner_text())
        shown.locator("#choose-model").select_option("llama-2-7b")
        models = shown.evaluate(
            """[...document.querySelectorAll(".group")].filter((group) => group.checkVisibility())
            .map((group) => group.dataset.model)"""
        )
        assert set(models) == {"llama-2-7b"}
        shown.locator("#find-method").fill("no such method")
        assert shown.locator("#nothing-left").is_visible()
        assert shown.locator("section.table:visible").count() == 0
        assert shown.locator(".bar li:visible").count() == 0
        shown.locator("#reset-view").click()
        assert not shown.locator("#nothing-left").is_visible()
        assert shown.locator("section.table:visible").count() == 7
        shown.locator("#measured-only").check()
        assert shown.locator("tr.published:visible, .group.published:visible").count() == 0
        assert shown.locator("tr.measured:visible").count() > 20


def test_numbers_beside_the_dense_model_and_the_paper(
    page: str, browser: Browser, cells: Cells
) -> None:
    accuracy = f"{FIVE}/sleb/piqa"
    perplexity = "table02/smollm2-135m/n5/sleb/novels"
    beside = "table01/llama-2-7b/n7/sleb/piqa"

    def dense(name: str) -> float:
        table, model, _, _, column = name.split("/")
        found: float = cells[f"{table}/{model}/n0/dense/{column}"]["value"]
        return found

    with browser.open(page, 1280) as shown:

        def text(name: str) -> str:
            # Far from the view it is not rendered, and so has no inner text.
            return shown.locator(f'td [data-cell="{name}"] .value').text_content() or ""

        before = text(accuracy)
        shown.locator("#controls summary").click()
        forms = shown.locator("#choose-form")
        forms.select_option("minus-dense")
        assert float(text(accuracy)) == pytest.approx(
            cells[accuracy]["value"] - dense(accuracy), abs=0.0051
        )
        forms.select_option("of-dense")
        assert text(accuracy) == f"{100 * cells[accuracy]['value'] / dense(accuracy):.1f} %"
        assert text(perplexity) == f"{cells[perplexity]['value'] / dense(perplexity):.2f}\u00d7"
        forms.select_option("minus-paper")
        assert text(beside) == f"{cells[beside]['difference']:+.2f}"
        assert text(accuracy) == "\u00b7"  # the paper has no such model
        forms.select_option("")
        assert text(accuracy) == before


def test_a_printed_number_stands_beside_the_printed_dense_one(
    page: str, browser: Browser, cells: Cells
) -> None:
    """Also where the dense model was measured, on a sample perhaps."""
    printed = cells["table01/llama-2-7b/n9/sleb/piqa"]
    dense = cells["table01/llama-2-7b/n0/dense/piqa"]
    assert (printed["status"], dense["status"]) == ("published", "measured")
    assert abs(dense["value"] - dense["published"]) > 0.1
    with browser.open(page, 1280) as shown:
        shown.locator("#controls summary").click()
        shown.locator("#choose-form").select_option("minus-dense")
        text = shown.locator(f'td [data-cell="{printed["id"]}"] .value').text_content()
    assert float(text or "nan") == pytest.approx(printed["value"] - dense["published"], abs=0.0051)


def exported(page: Page, table: str, format: str) -> str:
    with page.expect_download() as waiting:
        line = page.locator(f'.exports[data-table="{table}"]')
        # By keyboard: the bar that stays in view may lie over the button.
        line.locator(f"[data-action=download][data-format={format}]").press("Enter")
    assert waiting.value.suggested_filename.startswith(f"{table}.")
    return Path(waiting.value.path()).read_text(encoding="utf-8")


def test_a_table_downloads_as_csv_with_every_number(
    page: str, browser: Browser, cells: Cells
) -> None:
    with browser.open(page, 1280) as shown:
        text = exported(shown, TABLE, "csv")
        shown.locator(f'.exports[data-table="{TABLE}"] output').wait_for()
        shown.locator("#controls summary").click()
        shown.locator("#find-method").fill("sleb")
        narrowed = exported(shown, TABLE, "csv")
    lines = list(csv.DictReader(io.StringIO(text)))
    measured = [line for line in lines if line["status"] == "measured"]
    assert len(measured) > 100
    for line in lines:
        cell = cells[line["cell"]]
        assert line["removed"] == str(cell["n_pruned"]) and line["status"] == cell["status"]
        if cell["value"] is not None:
            assert float(line["value"]) == cell["value"]
        assert line["reason"] == (cell["reason"] or "")
        if cell["difference"] is not None:
            assert float(line["difference"]) == cell["difference"]
        assert line["benchmarks_used"] == str(cell["benchmarks_used"] or "")
    kept = {line["cell"].split("/")[3] for line in csv.DictReader(io.StringIO(narrowed))}
    assert kept == {"dense", "sleb"}


def test_a_table_downloads_what_is_missing_as_well(
    page: str, browser: Browser, cells: Cells
) -> None:
    """A row without a number has one line, with the reason; differences are numbers."""
    with browser.open(page, 1280) as shown:
        tables = shown.evaluate(
            """[...document.querySelectorAll(".exports")].map((line) => line.dataset.table)"""
        )
        texts = [copied(shown, table, "csv") for table in tables]
        reasons = shown.locator("td.reason").count()
    lines = [line for text in texts for line in csv.DictReader(io.StringIO(text))]
    assert reasons > 0 and sum(line["status"] == "missing" for line in lines) >= reasons
    differences = [line for line in lines if line["difference"]]
    assert len(differences) > 5
    for line in differences:
        assert float(line["difference"]) == cells[line["cell"]]["difference"]


def copied(page: Page, table: str, format: str) -> str:
    page.evaluate(
        """Object.defineProperty(navigator, "clipboard", { configurable: true, value: {
          writeText: async (text) => { window.copied = text; } } })"""
    )
    line = page.locator(f'.exports[data-table="{table}"]')
    line.locator(f"[data-action=copy][data-format={format}]").press("Enter")
    line.locator("output", has_text="Copied").wait_for()
    text: str = page.evaluate("window.copied")
    return text


def test_a_table_copies_as_markdown(page: str, browser: Browser, cells: Cells) -> None:
    with browser.open(page, 1280) as shown:
        text = copied(shown, TABLE, "markdown")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert len(widths) == 1 and len(lines) > 8
    best = max(
        (row for row in cells if re.fullmatch(rf"{FIVE}/[^/]+/arc_easy", row)),
        key=lambda name: cells[name]["value"] or 0,
    )
    assert f"**{cells[best]['text']}**" in text
    assert "Limited samples: " in text and "ARC-e n=64" in text
    partial = cells[f"{FIVE}/sleb/qa_rp"]
    assert partial["benchmarks_used"] < partial["benchmarks_wanted"]
    assert f"({partial['benchmarks_used']} of {partial['benchmarks_wanted']})" in text


def test_another_form_of_the_numbers_is_named_and_has_no_errors(
    page: str, browser: Browser, cells: Cells
) -> None:
    table = "table01-llama-2-7b"
    with browser.open(page, 1280) as shown:
        shown.locator("#controls summary").click()
        shown.locator("#show-errors").check()
        plain = [copied(shown, table, format) for format in ("markdown", "latex")]
        shown.locator("#choose-form").select_option("minus-paper")
        other = [copied(shown, table, format) for format in ("markdown", "latex")]
    assert "(paper " in plain[0] and "\u00b1" in plain[0] and "scriptsize" in plain[1]
    assert all("numbers minus the paper's" in text for text in other)
    assert not any("(paper " in text or "\u00b1" in text or "scriptsize" in text for text in other)
    difference = cells["table01/llama-2-7b/n7/sleb/piqa"]["difference"]
    assert f"{difference:+.2f}" in other[0]


@pytest.fixture(scope="module")
def latex(page: str, browser: Browser) -> list[str]:
    with browser.open(page, 1280) as shown:
        tables = shown.evaluate(
            """[...document.querySelectorAll(".exports")].map((line) => line.dataset.table)"""
        )
        shown.locator("#controls summary").click()
        shown.locator("#show-errors").check()
        first = exported(shown, tables[0], "latex")
        # Chromium holds back a page's eleventh download until the reader allows it.
        texts = [copied(shown, table, "latex") for table in tables]
    assert texts[0] == first
    return texts


def test_a_table_as_latex_is_set_by_booktabs(latex: list[str], cells: Cells) -> None:
    first = latex[0]
    assert first.count("\\toprule") == first.count("\\bottomrule") == 1
    assert "\\caption{Table 1, SmolLM2-135M-Instruct: Question answering without training." in first
    columns = len(re.findall(r"\\begin\{tabular\}\{l(r+)\}", first)[0])
    rows = [line for line in first.splitlines() if line.startswith("LinearPatch [S] &")]
    assert len(rows) == 2 and all(row.count(" & ") == columns for row in rows)
    assert f"\\textbf{{{cells[f'{FIVE}/shortgpt+linearpatch/arc_easy']['text']}}}" in first
    assert "{\\scriptsize $\\pm$ 6.25}" in first


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_the_latex_of_every_table_compiles(latex: list[str], tmp_path: Path) -> None:
    document = "\n".join(
        [
            "\\documentclass{article}",
            "\\usepackage[utf8]{inputenc}",
            "\\usepackage{booktabs}",
            "\\begin{document}",
            *(f"{table}\\clearpage" for table in latex),
            "\\end{document}",
        ]
    )
    (tmp_path / "tables.tex").write_text(document, encoding="utf-8")
    run = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )
    assert run.returncode == 0, run.stdout[-2000:]
    assert (tmp_path / "tables.pdf").stat().st_size > 10_000


def test_the_numbers_of_a_figure_download(page: str, browser: Browser) -> None:
    with browser.open(page, 1280) as shown:
        numbers = shown.locator("#beyond figure .numbers").first
        numbers.locator("summary").click()
        with shown.expect_download() as waiting:
            numbers.locator("button").click()
        text = Path(waiting.value.path()).read_text(encoding="utf-8")
        table = numbers.locator("table").locator("tbody th").all_inner_texts()
    lines = list(csv.reader(io.StringIO(text)))
    assert len({len(line) for line in lines}) == 1
    assert [line[0] for line in lines[2:]] == table


def test_a_tooltip_tells_sample_and_significance(page: str, browser: Browser, cells: Cells) -> None:
    name = f"{FIVE}/sleb/arc_easy"
    with browser.open(page, 1280) as shown:
        button = shown.locator(f'[data-cell="{name}"]')
        tip = shown.locator("#tip")
        assert not tip.is_visible()
        button.hover()
        text = tip.inner_text()
        assert button.get_attribute("aria-describedby") == "tip"
        shown.keyboard.press("Escape")
        assert not tip.is_visible()
        button.focus()  # by script: no ring, no tooltip
        shown.keyboard.press("ArrowRight")
        assert "BoolQ" in tip.inner_text()
    assert "standard error 6.25" in text and "64 of 2376 documents, a limited sample" in text
    assert cells[name]["versus_best"]["text"] in text


def test_a_tap_opens_the_panel_without_a_tooltip(page: str, browser: Browser) -> None:
    with browser.open(page, 375) as shown:
        shown.evaluate(
            f"""document.querySelector('[data-cell="{FIVE}/sleb/arc_easy"]').dispatchEvent(
              new PointerEvent("pointerover", {{ pointerType: "touch", bubbles: true }}))"""
        )
        assert not shown.locator("#tip").is_visible()
        shown.locator(f'[data-cell="{FIVE}/sleb/arc_easy"]').click()
        assert shown.locator("#panel").is_visible()
        assert "64 of 2376 documents" in shown.locator("#panel").inner_text()


def test_colours_follow_the_system_until_the_reader_chooses(page: str, browser: Browser) -> None:
    with browser.open(page, 1280, colour_scheme="dark") as shown:

        def paper() -> str:
            found: str = shown.evaluate("getComputedStyle(document.body).backgroundColor")
            return found

        dark = paper()
        shown.locator("#controls summary").click()
        shown.locator("#choose-theme").select_option("light")
        light = paper()
        assert light != dark
        shown.reload()
        assert paper() == light
        shown.locator("#controls summary").click()
        shown.locator("#choose-theme").select_option("")
        assert paper() == dark


def test_a_link_to_a_cell_opens_its_panel(page: str, browser: Browser) -> None:
    fragment = "#cell=table01%2Fsmollm2-135m%2Fn5%2Fsleb%2Farc_easy"
    with browser.open(page, 1280, fragment=fragment) as shown:
        assert shown.locator("#panel").is_visible()
        assert shown.locator("#panel-title").inner_text() == "SLEB, ARC-e"


def test_a_link_that_was_cut_off_leaves_the_page_of_use(page: str, browser: Browser) -> None:
    with browser.open(page, 1280, fragment="#cell=table01%2Fsmollm2%2") as shown:
        assert shown.locator("#controls").is_visible()
        assert not shown.locator("#panel").is_visible()


def test_the_bars_on_top_show_the_numbers_of_their_table(
    page: str, browser: Browser, cells: Cells
) -> None:
    with browser.open(page, 375) as shown:
        bars = shown.evaluate(
            """[...document.querySelectorAll(".picture")].map((picture) =>
              [...picture.querySelectorAll("li")].map((bar) => [
                bar.querySelector("button").dataset.cell,
                bar.querySelector("button").textContent,
                bar.querySelector("i").getBoundingClientRect().width,
              ]))"""
        )
        shown.locator(".picture button").first.click()
        assert shown.locator("#panel").is_visible()
    assert len(bars) == 4
    for picture in bars:
        assert "/n0/dense/" in picture[0][0] and len(picture) == 5
        longest = max(cells[name]["value"] for name, _, _ in picture)
        width = max(length for _, _, length in picture)
        for name, text, length in picture:
            assert text == cells[name]["text"]
            assert length / width == pytest.approx(cells[name]["value"] / longest, abs=0.02)
