"""The page in a real browser: layout at 375 pixels, panel, keyboard, no requests."""

from __future__ import annotations

import re
from typing import Any

import pytest
import report_example as example
from browsing import Browser

Cells = dict[str, dict[str, Any]]

CELL = "table01/smollm2-135m/n5/llm-streamline+linearpatch/arc_easy"


@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_fits_its_window_and_asks_for_nothing(
    page: str, browser: Browser, width: int
) -> None:
    facts = browser.evaluate(
        page,
        width,
        """
        const scrolls = [...document.querySelectorAll(".scroll")];
        const first = scrolls[0];
        const head = first.querySelector("tbody th[scope=row]");
        const before = head.getBoundingClientRect().left;
        first.scrollLeft = 200;
        return {
          inner: innerWidth,
          page: document.documentElement.scrollWidth,
          moved: first.scrollLeft,
          shift: head.getBoundingClientRect().left - before,
          focusable: scrolls.every((element) => element.tabIndex === 0),
          requests: performance.getEntriesByType("resource").map((entry) => entry.name),
          rows: document.querySelectorAll("tbody tr").length,
        };
        """,
    )
    assert facts["inner"] == width
    assert facts["page"] <= width  # the tables scroll, the page does not
    assert facts["shift"] == 0  # the first column stays
    assert facts["focusable"] is True
    assert facts["requests"] == []
    assert facts["rows"] > 100
    if width == 375:
        assert facts["moved"] == 200


def test_a_number_opens_its_source_and_closes_again(
    page: str, browser: Browser, cells: Cells
) -> None:
    facts = browser.evaluate(
        page,
        375,
        f"""
        const panel = document.getElementById("panel");
        const button = document.querySelector('[data-cell="{CELL}"]');
        const before = panel.open;
        button.focus();
        button.click();
        const text = panel.innerText;
        const width = panel.getBoundingClientRect().width;
        const hash = location.hash;
        panel.querySelector("[data-close]").click();
        await new Promise((resolve) => setTimeout(resolve, 50));
        return {{ before, text, width, hash, after: panel.open,
                  back: document.activeElement === button, left: location.hash }};
        """,
    )
    assert facts["before"] is False and facts["after"] is False and facts["back"] is True
    assert facts["width"] <= 375
    assert facts["hash"].startswith("#cell=table01%2Fsmollm2-135m") and facts["left"] == ""
    source = cells[CELL]["source"]
    for expected in (
        CELL,
        source["path"],
        source["sha256"],
        "/value",
        repr(cells[CELL]["value"]),
        "64 of 2376 documents",
        "12, 13, 14, 15, 16",
        "task_version",
        "6.25",
        "made by evaluate_harness",
    ):
        assert expected in facts["text"]


def test_keys_move_between_numbers_and_a_part_leads_to_its_own_source(
    page: str, browser: Browser
) -> None:
    facts = browser.evaluate(
        page,
        1280,
        f"""
        const press = (key) => document.activeElement.dispatchEvent(
          new KeyboardEvent("keydown", {{ key, bubbles: true, cancelable: true }}));
        const at = () => document.activeElement.dataset.cell;
        document.querySelector('[data-cell="{CELL}"]').focus();
        press("ArrowRight"); const right = at();
        press("ArrowUp"); const up = at();
        press("ArrowDown"); press("ArrowLeft"); const home = at();
        const edge = document.querySelector('[data-cell="{CELL.replace("arc_easy", "ratio")}"]');
        edge.focus(); press("ArrowLeft"); const stay = at();
        document.querySelector('[data-cell="{CELL.replace("arc_easy", "qa_avg")}"]').click();
        const panel = document.getElementById("panel");
        const sample = panel.innerText;
        panel.querySelector('li .part[title="{CELL}"]').click();
        return {{ right, up, home, stay, sample, part: panel.innerText, open: panel.open }};
        """,
    )
    assert facts["right"] == CELL.replace("arc_easy", "boolq")
    assert facts["up"] == "table01/smollm2-135m/n5/shortgpt+linearpatch/boolq"
    assert facts["home"] == CELL
    assert facts["stay"] == CELL.replace("arc_easy", "ratio")
    assert "7 of 9" in facts["sample"]
    assert facts["open"] is True and CELL in facts["part"]


def test_a_missing_and_a_printed_cell_say_why_and_where(page: str, browser: Browser) -> None:
    facts = browser.evaluate(
        page,
        1280,
        """
        const open = (id) => {
          document.querySelector(`[data-cell="${id}"]`).click();
          return document.getElementById("panel").innerText;
        };
        return {
          missing: open("table01/smollm2-135m/n5/sleb/wsc273"),
          row: open("table01/smollm2-135m/n5/llm-pruner/ratio"),
          printed: open("table02/llama-3-8b/n7/sleb/c4"),
          beside: open("table01/llama-2-7b/n7/sleb/piqa"),
        };
        """,
    )
    assert "Missing: WSC273 is not in the embedded data" in facts["missing"]
    assert "sha256" not in facts["missing"]
    assert "Missing: width pruning is defined in config/width.yaml" in facts["row"]
    assert "Printed in the paper" in facts["printed"]
    assert "reports/published/table02.csv" in facts["printed"] and "row=43" in facts["printed"]
    assert re.search(r"Printed value\s+73\.07\s+Difference\s+[-+]\d+\.\d\d", facts["beside"])


# What a test of the lineage needs: the panel of a cell, and its tree as nested lists of files.
LINEAGE = """
const panel = document.getElementById("panel");
const open = (id) => document.querySelector(`[data-cell="${id}"]`).click();
const pathOf = (item) => item.querySelector(":scope > .step .path").textContent;
const treeOf = (item) =>
  [pathOf(item), ...[...item.querySelectorAll(":scope > .branches > li")].map(treeOf)];
const tree = () => treeOf(panel.querySelector(".tree > li"));
"""


def test_a_number_shows_its_chain_down_to_pinned_downloads(page: str, browser: Browser) -> None:
    calibrated = "results/smollm2-135m/calibration/wikipedia"
    plans = f"{calibrated}/selection/llm-streamline"
    facts = browser.evaluate(
        page,
        375,
        LINEAGE
        + f"""
        open("{CELL}");
        const all = panel.querySelectorAll(".tree .step");
        const result = {{
          tree: tree(),
          text: panel.innerText,
          requests: performance.getEntriesByType("resource").length,
          fits: panel.scrollWidth <= panel.clientWidth,
          opened: [...panel.querySelectorAll(".tree details:not(.pin)")].some((d) => d.open),
          files: [...panel.querySelectorAll(".tree .files .path")].map((p) => p.textContent),
        }};
        const jump = [...all[0].querySelectorAll(".part")].find((b) => b.textContent === "plan.json");
        jump.focus();
        jump.click();
        result.jumped = document.activeElement.querySelector(".path").textContent;
        open("{CELL.replace("arc_easy", "ratio")}");
        result.ratio = tree();
        result.settings = panel.innerText;
        open("{CELL.replace("arc_easy", "qa_avg")}");
        result.average = [panel.querySelectorAll(".tree").length, panel.innerText];
        panel.querySelector('li .part[title="{CELL}"]').click();
        result.part = tree()[0];
        return result;
        """,
    )
    assert facts["requests"] == 0 and facts["fits"] is True and facts["opened"] is False
    spine = [
        f"{plans}/n5/linearpatch/",
        f"{plans}/n5/plan.json",
        f"{plans}/ranking.parquet",
        f"{calibrated}/stats.parquet",
        "results/smollm2-135m/windows/wikipedia/calibration.parquet",
    ]
    score, data, node = facts["tree"]
    assert score == f"{plans}/n5/linearpatch/scores/arc_easy.json"
    assert data == ["resources/data/"]
    for path in spine:
        assert node[0] == path
        node, rest = node[-1], node[1:-1]
    assert rest == [["resources/data/wikipedia/"]]
    assert node == ["resources/models/smollm2-135m/", ["resources/archives/example/"]]
    assert "arc_easy/test.parquet" in facts["files"]
    assert "also from plan.json, smollm2-135m/" in facts["text"]
    pinned = r"pinned download\s+package\s+example\s+sha256\s+a{64}\s+version\s+1\.0"
    assert re.search(pinned, facts["text"])
    assert f"Repeat with: snakemake --cores 1 --force {score}" in facts["text"]
    assert facts["jumped"] == f"{plans}/n5/plan.json"
    assert facts["ratio"][0] == f"{plans}/n5/linearpatch/patch.manifest.json"
    assert re.search(r"Settings\s+recovery\s+linearpatch", facts["settings"])
    assert facts["average"][0] == 0
    assert "Computed from the numbers below" in facts["average"][1]
    assert facts["part"] == f"{plans}/n5/linearpatch/scores/arc_easy.json"


def test_copy_buttons_give_the_whole_text_or_select_it(
    page: str, browser: Browser, cells: Cells
) -> None:
    facts = browser.evaluate(
        page,
        1280,
        LINEAGE
        + f"""
        const copied = [];
        let works = true;
        Object.defineProperty(navigator, "clipboard", {{ configurable: true, value: {{
          writeText: async (text) => {{ if (!works) throw new Error("denied"); copied.push(text); }},
        }} }});
        const press = async (button) => {{
          button.click();
          await new Promise((resolve) => setTimeout(resolve, 20));
          return button.textContent;
        }};
        open("{CELL}");
        const root = panel.querySelector(".tree .step");
        const digest = root.querySelector(".copy");
        const before = [root.querySelector(".digest code").textContent, digest.textContent];
        const after = await press(digest);
        const announced = document.getElementById("panel-announcement").textContent;
        await press(panel.querySelector(".repeat .copy"));
        works = false;
        const denied = await press(digest);
        const selected = getSelection().toString();
        Object.defineProperty(navigator, "clipboard", {{ value: undefined }});
        await press(panel.querySelector(".repeat .copy"));
        return {{ copied, before, after, announced, denied, selected,
                  absent: getSelection().toString() }};
        """,
    )
    source = cells[CELL]["source"]
    assert facts["before"] == [source["sha256"][:12], "Copy the sha256 of arc_easy.json"]
    assert facts["after"] == facts["announced"] == "Copied the sha256 of arc_easy.json"
    command = f"snakemake --cores 1 --force {source['path']}"
    assert facts["copied"] == [source["sha256"], command]
    assert facts["denied"].startswith("Selected, press Ctrl+C")
    assert facts["selected"] == source["sha256"]
    assert facts["absent"] == command


def test_verdicts_and_comparisons_open_in_the_panel(page: str, browser: Browser) -> None:
    name = "table01/llama-2-7b/n7/sleb/arc_easy"
    facts = browser.evaluate(
        page,
        375,
        f"""
        const button = document.querySelector('[data-cell="{name}"]');
        const tied = document.querySelector("td .value.tied");
        const more = document.getElementById("summary");
        more.querySelector("summary").click();
        button.click();
        const text = document.getElementById("panel").innerText;
        const heading = [...document.querySelectorAll("#panel-body h3")]
          .find((item) => item.innerText === "Compared with the best of the column");
        heading.nextElementSibling.querySelector("button").click();
        return {{
          name: button.textContent,
          sign: button.querySelector(".verdict").innerText,
          border: getComputedStyle(tied).borderBottomStyle,
          folded: more.open && more.querySelector("dd").getBoundingClientRect().height > 0,
          text,
          best: document.getElementById("panel").innerText,
          width: document.documentElement.scrollWidth,
        }};
        """,
    )
    assert facts["name"].endswith("differs") and facts["sign"] == "\N{NOT EQUAL TO}"
    assert facts["border"] == "dotted" and facts["folded"] is True
    assert "differs: more than twice the standard error of 6.25" in facts["text"]
    assert "-14.29, standard error 6.25" in facts["text"]
    assert "exact McNemar test on the documents" in facts["text"]
    assert "corrected for 10 comparisons" in facts["text"]
    assert facts["best"].startswith("LinearPatch [S], ARC-e")
    assert "Compared with the same cut without repair" in facts["best"]
    assert facts["width"] <= 375


def test_a_number_that_was_not_compared_says_so(page: str, browser: Browser, cells: Cells) -> None:
    """It has no line below it, as one that differs from the best has none."""
    compared = "table01/llama-2-7b/n7/sleb/arc_easy"
    best = next(name for name, cell in cells.items() if cell["mark"] == "best")
    alone = next(
        name
        for name, cell in cells.items()
        if cell["status"] == "measured"
        and cell["n_pruned"]
        and cell["column"] in ("novels", "arc_easy")
        and not cell["versus_best"]
        and cell["mark"] != "best"
    )
    texts = browser.evaluate(
        page,
        1280,
        f"""
        const text = (name) => {{
          document.querySelector(`[data-cell="${{name}}"]`).click();
          return document.getElementById("panel-body").innerText;
        }};
        return ["{alone}", "{compared}", "{best}"].map(text);
        """,
    )
    said = [re.search(r"Beside the best of its column\s+not compared", text) for text in texts]
    assert [bool(found) for found in said] == [True, False, False]


def test_standard_errors_show_on_demand(page: str, browser: Browser) -> None:
    facts = browser.evaluate(
        page,
        1280,
        """
        const shown = () => getComputedStyle(document.querySelector("td .error")).display;
        const before = shown();
        document.getElementById("show-errors").click();
        return [before, shown()];
        """,
    )
    assert facts == ["none", "block"]


SHARE = "beyond/smollm2-135m/n5/least-squares/share_closed"


@pytest.mark.parametrize("width", [375, 1280])
def test_a_figure_is_readable_and_leads_to_its_numbers(
    page: str, browser: Browser, cells: Cells, width: int
) -> None:
    facts = browser.evaluate(
        page,
        width,
        f"""
        const chart = document.querySelector("#beyond figure");
        const drawings = [...chart.querySelectorAll(".drawings svg")];
        const inside = (element) => {{
          const box = element.getBoundingClientRect();
          return box.width > 0 && box.left >= 0 && box.right <= innerWidth + 0.5;
        }};
        const seen = (element) => getComputedStyle(element).visibility === "visible"
          && Number(getComputedStyle(element).opacity) === 1;
        const texts = [...document.querySelectorAll(".drawings text")];
        const entries = [...chart.querySelectorAll(".key li")];
        const overlap = (a, b) =>
          a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
        const dots = document.querySelectorAll("#beyond figure")[1];
        const clashes = [...dots.querySelectorAll(".drawings svg")].map((svg) => {{
          const boxes = [...svg.querySelectorAll(".label, .number")]
            .map((text) => text.getBoundingClientRect());
          return boxes.filter((box, i) => boxes.slice(0, i).some((b) => overlap(b, box))).length;
        }});
        const numbers = chart.querySelector(".numbers");
        const closed = numbers.querySelector("table").checkVisibility();
        numbers.querySelector("summary").click();
        const result = {{
          page: document.documentElement.scrollWidth,
          fits: [...drawings, ...texts, ...entries].every(inside),
          visible: entries.every(seen),
          legend: entries.map((entry) => entry.innerText.trim()),
          sizes: texts.map((text) => parseFloat(getComputedStyle(text).fontSize)
            * text.ownerSVGElement.getBoundingClientRect().width / 360),
          colours: entries.map((entry) => getComputedStyle(entry.querySelector(".mark")).fill),
          bold: entries.map((entry) => Number(getComputedStyle(entry).fontWeight) > 600),
          widths: drawings.map((svg) => [...svg.querySelectorAll(".path")]
            .map((path) => getComputedStyle(path).strokeWidth)),
          clashes,
          table: [closed, numbers.querySelector("table").checkVisibility()],
          requests: performance.getEntriesByType("resource").length,
        }};
        const mark = chart.querySelector('[data-cell="{SHARE}"] .mark');
        mark.dispatchEvent(new MouseEvent("click", {{ bubbles: true }}));
        result.panel = document.getElementById("panel").innerText;
        document.querySelector("#panel .part").click();
        result.other = document.getElementById("panel-title").innerText;
        return result;
        """,
    )
    assert facts["page"] <= width and facts["requests"] == 0
    assert facts["fits"] is True and facts["visible"] is True
    assert facts["legend"] == ["No repair", "Prune&Comp", "LinearPatch", "Ghosted Layers"]
    assert facts["bold"] == [False, False, False, True]
    assert len(set(facts["colours"])) == 4 and "rgb(0, 0, 0)" not in facts["colours"]
    assert min(facts["sizes"]) >= 9.5
    for widths in facts["widths"]:
        assert widths.count("3px") == 1 and widths[-1] == "3px"
    assert facts["clashes"] == [0, 0, 0]
    assert facts["table"] == [False, True]
    cell = cells[SHARE]
    [comparison] = cell["comparisons"]
    for expected in (
        SHARE,
        f"{cell['text']} of the gap",
        cell["interval_text"],
        "Compared with LinearPatch",
        comparison["share"]["text"] + " points",
        comparison["log_perplexity"]["text"],
        "Layers that LLM-Streamline removes",
    ):
        assert expected in facts["panel"]
    assert facts["other"] == "LinearPatch, Share closed (Embedded corpora)"


def test_colours_of_a_figure_follow_the_scheme(page: str, browser: Browser) -> None:
    script = """
    const marks = document.querySelectorAll("#beyond .key .mark");
    return [...marks].map((mark) => getComputedStyle(mark).fill);
    """
    light = browser.evaluate(page, 1280, script)
    dark = browser.evaluate(page, 1280, script, colour_scheme="dark")
    assert len(set(light)) == len(light) == 4
    assert not set(light) & set(dark)


@pytest.mark.parametrize("width", [375, 1280])
def test_training_curves_are_readable_and_their_row_leads_to_the_start(
    page: str, browser: Browser, width: int
) -> None:
    variant = example.variant_folder(example.SMALL, "llm-streamline", 5, "linearpatch+ft")
    start = example.variant_folder(example.SMALL, "llm-streamline", 5, "linearpatch")
    facts = browser.evaluate(
        page,
        width,
        LINEAGE
        + """
        const chart = document.querySelector("#table06 figure");
        const drawings = [...chart.querySelectorAll(".drawings svg")];
        const inside = (element) => {
          const box = element.getBoundingClientRect();
          return box.width > 0 && box.left >= 0 && box.right <= innerWidth + 0.5;
        };
        const style = (selector) => getComputedStyle(chart.querySelector(selector));
        const table = document.getElementById("table06-smollm2-135m");
        const result = {
          fits: [...drawings, ...chart.querySelectorAll(".drawings text, .key li, p")].every(inside),
          page: document.documentElement.scrollWidth,
          below: chart.getBoundingClientRect().top >= table.getBoundingClientRect().bottom,
          mean: [style(".path").fill, parseFloat(style(".path").strokeWidth)],
          raw: [style(".raw").fill, parseFloat(style(".raw").strokeWidth)],
          kept: style(".drawings .mark:not(.passed)").fill,
          passed: style(".drawings .passed").fill,
          requests: performance.getEntriesByType("resource").length,
        };
        open("table06/smollm2-135m/n5/linearpatch+ft/novels");
        result.text = panel.innerText;
        result.files = [...panel.querySelectorAll(".tree .path")].map((path) => path.textContent);
        open("table11/smollm2-135m/n5/samples-64/distilled_tokens");
        result.tokens = panel.innerText;
        return result;
        """,
    )
    assert facts["fits"] is True and facts["page"] <= width and facts["requests"] == 0
    assert facts["below"] is True
    assert facts["mean"][0] == facts["raw"][0] == "none"
    assert facts["mean"][1] >= 2 * facts["raw"][1] > 0
    assert facts["kept"] != facts["passed"]
    assert "the state after 65\u202f536 is kept" in facts["text"]
    assert {f"{variant}/", f"{start}/"} <= set(facts["files"])
    for name in ("calibration.parquet", "validation.parquet"):
        assert any(path.endswith(name) for path in facts["files"])
    assert "made by distill" in facts["text"]
    assert re.search(r"Column\s+column=tokens", facts["tokens"])
    assert re.search(r"65\u202f536 tokens", facts["tokens"])
