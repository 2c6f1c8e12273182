"""The page as markup: what it says, how it is built, and that nothing in it reaches outside."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import re
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import report_example as example
from report_example import ROOT

from lpsteps.errors import LpstepsError
from lpsteps.report.page import SCRIPTS, render_page, sample_sentences, script_json

TEMPLATES = {
    path.name: path.read_text(encoding="utf-8") for path in (ROOT / "reports/templates").iterdir()
}


class Element:
    def __init__(self, tag: str, attributes: dict[str, str], parent: Element | None) -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.content: list[Element | str] = []

    @property
    def children(self) -> list[Element]:
        return [item for item in self.content if isinstance(item, Element)]

    @property
    def text(self) -> str:
        return "".join(item if isinstance(item, str) else item.text for item in self.content)

    def all(self, tag: str) -> list[Element]:
        found = [self] if self.tag == tag else []
        return found + [hit for child in self.children for hit in child.all(tag)]

    def up(self, tag: str) -> Element:
        node: Element | None = self
        while node is not None and node.tag != tag:
            node = node.parent
        assert node is not None
        return node


class Tree(HTMLParser):
    VOID = frozenset({"meta", "br", "input", "link", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = self.open = Element("", {}, None)
        self.feed(html)
        assert self.open is self.root, f"<{self.open.tag}> is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, self.open)
        self.open.content.append(element)
        if tag not in self.VOID:
            self.open = element

    def handle_endtag(self, tag: str) -> None:
        assert self.open.tag == tag, f"</{tag}> closes <{self.open.tag}>"
        assert self.open.parent is not None
        self.open = self.open.parent

    def handle_data(self, data: str) -> None:
        self.open.content.append(data)


@pytest.fixture(scope="module")
def payload(built_tables: Path) -> Any:
    return json.loads(built_tables.read_text())


@pytest.fixture(scope="module")
def html(payload: dict[str, Any]) -> str:
    return render_page(payload, "0" * 64, TEMPLATES)


@pytest.fixture(scope="module")
def page(html: str) -> Element:
    return Tree(html).root


def button(page: Element, cell: str) -> Element:
    """The button of a cell in its table; the bars on top have some, too."""
    [found] = cell_buttons(page)[cell]
    return found


@functools.cache
def cell_buttons(page: Element) -> dict[str, list[Element]]:
    """All buttons in cells of tables, by the cell's id."""
    found: dict[str, list[Element]] = defaultdict(list)
    for td in page.all("td"):
        for b in td.all("button"):
            found[b.attributes.get("data-cell", "")].append(b)
    return found


def stored(page: Element) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        next(s for s in page.all("script") if s.attributes.get("id")).text
    )
    return found


def source_of(data: dict[str, Any], name: str) -> dict[str, Any]:
    """Path, hash, pointer, and settings of the score if it is one, of a cell's source."""
    key, _, column = name.rpartition("/")
    number = next(i for i, row in enumerate(data["rows"]) if row["key"] == key)
    source, pointer = [*data["cells"][number][column]["source"], "/value"][:2]
    entry = data["sources"][source]
    file = data["lineage"]["files"][entry["file"]] if "file" in entry else entry
    found = {"path": file["path"], "sha256": file["sha256"], "pointer": pointer}
    return (
        {**found, "settings": data["settings"][entry["settings"]]} if "settings" in entry else found
    )


def test_the_page_refers_to_nothing_outside_itself(html: str, page: Element) -> None:
    for element in [
        e for tag in ("link", "img", "iframe", "object", "base") for e in page.all(tag)
    ]:
        pytest.fail(f"<{element.tag}> in the page")
    for script in page.all("script"):
        assert "src" not in script.attributes
    for anchor in page.all("a"):
        assert anchor.attributes["href"].startswith("#")
    style = page.all("style")[0].text
    assert "url(" not in style and "@import" not in style
    assert not re.search(r"https?://", html)
    [policy] = [m for m in page.all("meta") if "Content-Security-Policy" in m.attributes.values()]
    assert "default-src 'none'" in policy.attributes["content"]


def test_tables_are_semantic(payload: dict[str, Any], page: Element) -> None:
    tables = page.all("table")
    models = sum(len({s["model"] for s in table["sections"]}) for table in payload["tables"])
    figures = page.all("figure")
    # Two of the table of our own, and a training for each model in Tables 6 and 11.
    assert len(figures) == 2 + 2 * 2 and len(tables) == models + len(figures)
    for table in tables:
        assert len(table.all("caption")) == 1 and table.all("caption")[0].text.strip()
        assert all("scope" in heading.attributes for heading in table.all("th"))
        for row in table.all("tr"):
            cells = [c for c in row.children if c.tag in ("td", "th")]
            width = sum(int(cell.attributes.get("colspan", "1")) for cell in cells)
            assert width == len(table.all("thead")[0].all("tr")[-1].children)
    ids = [
        e.attributes["id"] for e in page.all("table") + page.all("section") if "id" in e.attributes
    ]
    assert len(ids) == len(set(ids))
    for link in page.all("nav")[0].all("a"):
        assert link.attributes["href"][1:] in ids
    assert len(page.all("nav")[0].all("a")) == len(example.TABLES)


def test_every_number_opens_its_source(payload: dict[str, Any], page: Element) -> None:
    opened = {b.attributes["data-cell"] for b in page.all("button") if "data-cell" in b.attributes}
    hidden = {
        (table["id"], column["id"])
        for table in payload["tables"]
        for column in table["columns"]
        if not column["shown"]
    }
    assert ("beyond", "piqa") in hidden and ("beyond", "novels") not in hidden
    for cell in payload["cells"]:
        assert ((cell["table"], cell["column"]) in hidden) <= (cell["id"] not in opened)
        if cell["status"] != "missing" and (cell["table"], cell["column"]) not in hidden:
            assert cell["id"] in opened
            assert cell["text"] in button(page, cell["id"]).text


def test_every_measured_number_leads_back_to_a_pinned_download(
    payload: dict[str, Any], page: Element
) -> None:
    lineage = stored(page)["lineage"]
    files = {file["path"]: file for file in lineage["files"]}
    measured = [c for c in payload["cells"] if c["status"] == "measured" and c["source"]]
    assert len(measured) > 100
    pending, behind = [cell["source"]["path"] for cell in measured], set[str]()
    while pending:
        path = pending.pop()
        if path not in behind:
            behind.add(path)
            pending += payload["artifacts"][path]["inputs"]
    assert files.keys() == behind
    for path, file in files.items():
        assert file["sha256"] == payload["artifacts"][path]["sha256"]
    for cell in measured:
        rows = lineage["chains"][files[cell["source"]["path"]]["chain"]]["rows"]
        nodes = [lineage["nodes"][row["node"]] for row in rows[1:]]
        [pinned] = [node for node in nodes if "pinned" in node]
        paths = [lineage["files"][number]["path"] for number in pinned["files"]]
        assert all(path.startswith("resources/archives/") for path in paths)
        assert pinned["pinned"] == [{"package": "example", "version": "1.0", "sha256": "a" * 64}]
    for cell in payload["cells"]:
        if cell["status"] != "measured" and cell["source"]:
            assert cell["source"]["path"] not in files


def test_settings_of_a_step_are_told_where_no_score_tells_them(page: Element) -> None:
    data = stored(page)
    lineage = data["lineage"]
    chain = {file["path"]: file.get("chain") for file in lineage["files"]}
    told = {
        column: "settings" in lineage["chains"][chain[source_of(data, cell)["path"]]]
        for column, cell in (
            ("piqa", "table01/smollm2-135m/n5/sleb/piqa"),
            ("ratio", "table01/smollm2-135m/n5/sleb/ratio"),
            ("layers", "table08/smollm2-135m/n5/sleb/layers"),
        )
    }
    assert told == {"piqa": False, "ratio": True, "layers": True}


def test_limited_numbers_say_so_in_the_cell(page: Element) -> None:
    limited = button(page, "table01/smollm2-135m/n5/sleb/piqa")
    assert "n=64" in limited.text
    assert "n=" not in button(page, "table01/smollm2-135m/n5/sleb/copa").text
    average = button(page, "table01/smollm2-135m/n5/sleb/qa_avg")
    assert "7 of 9" in average.text and "limited" in average.text


def test_measured_and_printed_differ_by_words_not_only_by_colour(page: Element) -> None:
    beside = button(page, "table01/llama-2-7b/n7/sleb/arc_easy")
    assert "paper 56.57" in beside.text
    printed = button(page, "table01/llama-3-8b/n5/sleb/arc_easy")
    assert "printed in the paper" in printed.up("details").all("summary")[0].text
    mixed = button(page, "table01/llama-2-7b/n9/sleb/arc_easy")
    assert "9 of 32 layers removed, printed in the paper" in mixed.up("tbody").text


def test_verdicts_differ_by_sign_and_word(payload: dict[str, Any], page: Element) -> None:
    cells = {cell["id"]: cell for cell in payload["cells"]}
    for name, sign, word in (
        ("table08/llama-2-7b/n7/shortgpt/layers", "=", "reproduced"),
        ("table08/llama-2-7b/n7/sleb/layers", "\N{ALMOST EQUAL TO}", "close"),
        ("table01/llama-2-7b/n7/sleb/arc_easy", "\N{NOT EQUAL TO}", "differs"),
        ("table01/llama-2-7b/n7/sleb/arc_challenge", "?", "undecided"),
    ):
        shown = button(page, name)
        assert cells[name]["verdict"]["word"] == word
        assert shown.text.endswith(f" {sign}{word}")
        [seen] = [span for span in shown.all("span") if span.text == sign]
        [said] = [span for span in shown.all("span") if span.text == word]
        assert seen.attributes["aria-hidden"] == "true"
        assert said.attributes["class"] == "unseen"
    without = button(page, "table01/smollm2-135m/n5/sleb/arc_easy")
    assert without.text.endswith("n=64")


def test_a_note_on_a_printed_value_has_a_sign(payload: dict[str, Any]) -> None:
    noted = copy.deepcopy(payload)
    name = "table01/llama-2-7b/n7/sleb/arc_easy"
    cell = next(cell for cell in noted["cells"] if cell["id"] == name)
    cell["published_note"] = "likely a misprint"
    shown = button(Tree(render_page(noted, "0" * 64, TEMPLATES)).root, name)
    assert "56.57\N{DAGGER}" in shown.text


def test_numbers_that_cannot_be_told_from_the_best_are_marked(
    payload: dict[str, Any], page: Element
) -> None:
    marked = set()
    for cell in payload["cells"]:
        versus = cell["versus_best"]
        if versus is None:
            continue
        shown = button(page, cell["id"])
        [value] = [span for span in shown.all("span") if "value" in span.attributes["class"]]
        tied = "tied" in value.attributes["class"].split()
        assert tied == (not versus["told_apart"] and cell["mark"] != "best")
        said = [s.text for s in shown.all("span") if s.attributes["class"] == "unseen"]
        assert tied == ("tied" in said)
        marked.add(tied)
    assert marked == {True, False}


def test_an_equal_of_the_best_does_not_differ_from_it(payload: dict[str, Any]) -> None:
    equal = copy.deepcopy(payload)
    cell = next(
        cell
        for cell in equal["cells"]
        if cell["versus_best"] and not cell["versus_best"]["told_apart"]
    )
    cell["mark"] = "best"
    shown = button(Tree(render_page(equal, "0" * 64, TEMPLATES)).root, cell["id"])
    assert "tied" not in shown.all("span")[0].attributes["class"].split()


def test_bars_on_top_have_their_standard_errors(payload: dict[str, Any], page: Element) -> None:
    [glance] = [part for part in page.all("section") if part.attributes.get("class") == "glance"]
    cells = {cell["id"]: cell for cell in payload["cells"]}
    bars = [bar for bar in glance.all("li") if bar.all("button")]
    assert bars
    for bar in bars:
        cell = cells[bar.all("button")[0].attributes["data-cell"]]
        assert [text.text for text in bar.all("small")] == [f"\u00b1 {cell['stderr']:.2f}"]
        assert len(bar.all("b")) == 1
    assert "limited samples" in glance.text


def test_the_summary_stands_on_top(payload: dict[str, Any], page: Element) -> None:
    summary = payload["run"]["summary"]
    header = page.all("header")[0]
    text = " ".join(header.text.split())
    for status, word in (
        ("measured", "measured"),
        ("missing", "missing"),
        ("published", "printed"),
    ):
        assert f"{payload['run']['counts'][status]} {word}" in text
    assert f"{summary['counterparts']} measured cells stand beside a printed value." in text
    for word in ("reproduced", "close", "differs", "undecided"):
        assert f"{summary[word]} {word}" in text
    [more] = list(header.all("details"))
    assert "open" not in more.attributes
    items = [" ".join(item.text.split()) for item in more.all("dd")]
    for entry in (*summary["unjudged"], *summary["reasons"]):
        assert f"{entry['count']} {entry['reason']}" in items
    lines = [p.text for p in page.all("p") if p.attributes.get("class") == "counts"]
    assert len(lines) == len(payload["tables"])
    assert lines[0].startswith(f"{payload['tables'][0]['summary']['measured']} measured; ")


def test_missing_cells_give_their_reason(page: Element) -> None:
    row = button(page, "table01/smollm2-135m/n5/llm-pruner/ratio")
    assert row.text.endswith("which config/full.yaml includes")
    assert row.up("td").attributes["colspan"] == "12"
    gap = button(page, "table01/smollm2-135m/n5/sleb/wsc273")
    notes = [item.text for item in gap.up("details").all("li")]
    assert any(note.startswith("WSC: WSC273 is not in the embedded data") for note in notes)


def test_columns_without_a_printed_value_are_left_out_of_printed_groups(page: Element) -> None:
    group = button(page, "table02/llama-3-8b/n7/sleb/c4").up("table")
    heads = [th.text for th in group.all("thead")[0].all("tr")[-1].all("th")]
    assert heads == ["Method", "WIKI-2", "C4", "PTB", "Avg"]


def test_strip_shows_the_removed_layers(page: Element) -> None:
    bars = button(page, "table08/smollm2-135m/n5/sleb/layers").all("i")
    gone = [index for index, bar in enumerate(bars) if bar.attributes.get("class") == "gone"]
    assert len(bars) == 30 and gone == [5, 9, 13, 20, 21]


def test_a_share_shows_its_interval(payload: dict[str, Any], page: Element) -> None:
    name = "beyond/smollm2-135m/n5/linearpatch/share_closed"
    cell = next(cell for cell in payload["cells"] if cell["id"] == name)
    shown = button(page, name)
    assert cell["interval_text"] in shown.text
    legend = next(s for s in page.all("section") if s.attributes["class"] == "legend")
    assert "95 % interval" in legend.text


def test_groups_of_rows_have_headings(page: Element) -> None:
    body = button(page, "beyond/smollm2-135m/n5/linearpatch/novels").up("tbody")
    rows = [row.attributes["class"] for row in body.all("tr")]
    assert rows.count("choice") == 3 and rows[:3] == ["level", "choice", "measured"]


def test_a_figure_draws_the_numbers_of_its_table(payload: dict[str, Any], page: Element) -> None:
    cells = {cell["id"]: cell for cell in payload["cells"]}
    several, single = page.all("figure")[-2:]
    assert [len(figure.all("svg")) for figure in (several, single)] == [3 + 4, 3]
    for figure, model in ((several, "smollm2-135m"), (single, "llama-2-7b")):
        drawn = {g.attributes["data-cell"] for g in figure.all("g") if "data-cell" in g.attributes}
        levels = [section["n"] for section in payload["tables"][-1]["sections"]]
        expected = {
            f"beyond/{model}/n{n}/{row}/{column}"
            for n in set(levels)
            for row in ("pruned", "prune-and-comp", "linearpatch", "least-squares")
            for column in ("embedded_ppl_avg", "share_closed", "qa_avg")
        }
        assert drawn == expected & cells.keys()
        for name in drawn:
            assert cells[name]["text"] in figure.all("table")[0].text
    legend = [item.text.strip() for item in several.all("ul")[0].all("li")]
    assert legend == ["No repair", "Prune&Comp", "LinearPatch", "Ghosted Layers"]
    best = [i.text.strip() for i in several.all("li") if i.attributes.get("class") == "best"]
    assert best == ["Ghosted Layers"]
    share = cells["beyond/smollm2-135m/n5/least-squares/share_closed"]
    text = f"Share closed: Ghosted Layers, {share['text']} {share['interval_text']}."
    assert text in several.all("figcaption")[0].text
    assert "the only number of layers" in single.all("figcaption")[0].text
    assert not single.all("ul")


def test_trainings_stand_below_their_table(payload: dict[str, Any], page: Element) -> None:
    figures = {
        figure.up("section").attributes["id"] + figure.all("p")[0].text: figure
        for figure in page.all("figure")[:-2]
    }
    assert list(figures) == [
        "table06Training with 5 of 30 layers removed",
        "table06Training with 7 of 32 layers removed",
        "table11Training with 5 of 30 layers removed",
        "table11Training with 7 of 32 layers removed",
    ]
    for name, figure in figures.items():
        [curves] = [
            curves
            for table in payload["tables"]
            for curves in table["curves"]
            if name.startswith(table["id"]) and f"with {curves['n']} of" in name
        ]
        assert len(figure.all("svg")) == 2 + len(curves["lines"])
        details = figure.up("details")
        order = [child for child in details.children if child.tag in ("figure", "div")]
        assert order[-1] is figure  # behind the numbers
        rows = [row for row in figure.all("tr") if row.all("td")]
        for row, line in zip(rows, curves["lines"], strict=True):
            cells = [cell.text for cell in row.children]
            assert cells[2:4] == ["2.000", "1.000"]
            assert cells[5:] == ["1.250", line["source"]["path"]]
    drawn = {
        svg.attributes["aria-labelledby"] for svg in page.all("svg") if "role" in svg.attributes
    }
    assert len(drawn) == 2 * len(figures) + 2 * 3


def test_a_distilled_number_leads_to_its_start_and_its_text(
    payload: dict[str, Any], page: Element
) -> None:
    data = stored(page)
    lineage = data["lineage"]
    chain_of = {file["path"]: file.get("chain") for file in lineage["files"]}
    variant = example.variant_folder(example.SMALL, "llm-streamline", 5, "linearpatch+ft")
    start = example.variant_folder(example.SMALL, "llm-streamline", 5, "linearpatch")
    for cell, root in (
        ("table06/smollm2-135m/n5/linearpatch+ft/novels", f"{variant}/scores/novels.json"),
        ("table04/smollm2-135m/n5/linearpatch+ft/ratio", f"{variant}/patch.manifest.json"),
    ):
        assert source_of(data, cell)["path"] == root
        nodes = [
            lineage["nodes"][row["node"]] for row in lineage["chains"][chain_of[root]]["rows"][1:]
        ]
        made = {
            lineage["files"][number]["path"]: node.get("rule")
            for node in nodes
            for number in node["files"]
        }
        windows = "results/smollm2-135m/windows/wikipedia"
        assert made[f"{start}/patch.manifest.json"] == "build_patch"
        assert made[f"{windows}/calibration.parquet"] == "tokenize_corpus"
        assert made[f"{windows}/validation.parquet"] == "tokenize_corpus"
        if "scores" in root:
            assert made[f"{variant}/patch.safetensors"] == "distill"
    tokens = source_of(data, "table11/smollm2-135m/n5/samples-64/distilled_tokens")
    chain = lineage["chains"][chain_of[tokens["path"]]]
    assert (
        chain["rule"] == "distill" and chain["settings"]["recovery"] == "linearpatch+ft-samples-64"
    )
    assert tokens["pointer"] == "column=tokens"


def test_hostile_text_stays_text(payload: dict[str, Any]) -> None:
    evil = "</script><img src=x onerror=alert(1)>&'\""
    spoiled = copy.deepcopy(payload)
    spoiled["tables"][0]["title"] = spoiled["run"]["profile"] = evil
    spoiled["run"]["machines"] = [{"processor": evil, "cores": 2, "memory_gib": 8, "gpu": evil}]
    spoiled["run"]["commits"] = [{"commit": evil, "date": evil, "dirty": True}]
    for section in spoiled["tables"][0]["sections"]:
        section["title"] = evil
        for row in section["rows"]:
            row["label"] = row["group"] = evil
    for row in spoiled["tables"][-1]["figure"]["rows"]:
        row["label"] = evil
    for panel in spoiled["tables"][-1]["figure"]["panels"]:
        panel["title"] = evil
    for table in spoiled["tables"]:
        for line in (line for curves in table["curves"] for line in curves["lines"]):
            line["label"] = line["source"]["path"] = evil
    for cell in spoiled["cells"]:
        cell["interval_text"] = evil
        cell["reason"] = evil if cell["reason"] else None
    root = Tree(render_page(spoiled, evil, TEMPLATES)).root
    assert root.all("img") == []
    assert any(evil in heading.text for heading in root.all("h2"))
    assert evil in stored(root)["texts"]


def test_script_json_round_trips() -> None:
    content = {"a": "</script><!-- & \u2028 é", "b": [1.5, None, True]}
    text = script_json(content)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == content


def test_templates_do_no_arithmetic() -> None:
    for name, text in TEMPLATES.items():
        for code in re.findall(r"{[{%](.*?)[%}]}", text, re.DOTALL) if name.endswith(".j2") else []:
            bare = re.sub(r"'[^']*'|\"[^\"]*\"|^-|-$", "", code.strip())
            assert not re.search(r"[-+*/~]|\b(round|sum|float|int|abs)\b", bare), (name, code)


def limits(*cases: tuple[str, int, int]) -> dict[str, Any]:
    return {
        "run": {
            "limits": [
                {
                    "benchmark": name,
                    "protocol": "perplexity" if name == "novels" else "harness",
                    "n": n,
                    "total": total,
                    "limited": n < total,
                }
                for name, n, total in cases
            ]
        },
        "tables": [
            {
                "columns": [
                    {"id": name, "title": name.upper()} for name in ("piqa", "copa", "novels")
                ]
            }
        ],
    }


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        (
            [("piqa", 64, 1838), ("copa", 64, 100)],
            ["Each question-answering number is on 64 documents, spread evenly."],
        ),
        (
            [("novels", 4, 31)],
            ["Each perplexity is on 4 windows, the first ones of its split."],
        ),
        (
            [("piqa", 1838, 1838), ("novels", 31, 31)],
            [
                "Each question-answering number is over all documents of its split.",
                "Each perplexity is over all windows of its split.",
            ],
        ),
        (
            [("piqa", 64, 1838), ("copa", 100, 100)],
            [
                "Each question-answering number is on a limited number of documents, spread evenly: "
                "64 for PIQA; all for COPA."
            ],
        ),
        (
            [("novels", 30, 31), ("novels", 29, 29)],
            [
                "Each perplexity is on a limited number of windows, the first ones of its split: "
                "30 for NOVELS."
            ],
        ),
        # Of two models, whose tokenizers cut a text into windows of their own.
        (
            [("novels", 8, 31), ("novels", 8, 29)],
            ["Each perplexity is on 8 windows, the first ones of its split."],
        ),
        (
            [("piqa", 8, 31), ("piqa", 8, 29), ("copa", 9, 9), ("copa", 9, 9)],
            [
                "Each question-answering number is on a limited number of documents, spread evenly: "
                "8 for PIQA; all for COPA."
            ],
        ),
        ([], []),
    ],
)
def test_sample_limits_in_words(cases: list[tuple[str, int, int]], expected: list[str]) -> None:
    assert sample_sentences(limits(*cases)) == expected


def test_mistakes_in_templates_are_one_line(payload: dict[str, Any]) -> None:
    broken = TEMPLATES | {"table.html.j2": TEMPLATES["table.html.j2"] + "{% if %}"}
    with pytest.raises(LpstepsError, match=r"table\.html\.j2") as caught:
        render_page(payload, "", broken)
    assert "\n" not in str(caught.value)
    with pytest.raises(LpstepsError, match=r"style\.css was not given"):
        render_page(payload, "", {k: v for k, v in TEMPLATES.items() if k != "style.css"})
    with pytest.raises(LpstepsError, match=r"panel\.js: '</script'"):
        render_page(payload, "", TEMPLATES | {"panel.js": "'</script>'"})


def test_templates_are_the_files_of_the_folder() -> None:
    assert {Path(name).name for name in TEMPLATES} == {
        "page.html.j2",
        "table.html.j2",
        "figure.html.j2",
        "style.css",
        *SCRIPTS,
    }


def test_the_top_names_machines_and_commits(payload: dict[str, Any]) -> None:
    told = copy.deepcopy(payload)
    told["run"]["machines"] = [
        {"processor": "A processor", "cores": 2, "memory_gib": 24},
        {"processor": "Another", "cores": 8, "memory_gib": 64, "gpu": "A GPU"},
    ]
    told["run"]["commits"] = [
        {"commit": f"{number}" * 40, "date": f"2026-01-0{number}", "dirty": number == 5}
        for number in range(1, 6)
    ]
    text = " ".join(Tree(render_page(told, "", TEMPLATES)).root.all("header")[0].text.split())
    assert "A processor, 2 cores, 24 GiB" in text and "A GPU, Another, 8 cores, 64 GiB" in text
    assert (
        "commit 1111111111 of 2026-01-01 3 commits in between commit 5555555555 of 2026-01-05"
        in text
    )
    assert text.count("of 2026-01-05, with changes that are in no commit") == 1


@pytest.mark.parametrize(
    ("types", "words"),
    [
        (["float32", "bfloat16"], "models in bfloat16 and in float32"),
        (["bfloat16"], "models in bfloat16 profile"),
        ([None], None),
    ],
)
def test_the_top_names_the_types_of_numbers(
    payload: dict[str, Any], types: list[str | None], words: str | None
) -> None:
    told = copy.deepcopy(payload)
    for score, dtype in zip(told["scores"].values(), itertools.cycle(types), strict=False):
        score["settings"] = {} if dtype is None else {"dtype": dtype}
    text = " ".join(Tree(render_page(told, "", TEMPLATES)).root.all("header")[0].text.split())
    assert "models in" not in text if words is None else words in text


def test_a_commit_without_a_day_is_named_alone(payload: dict[str, Any]) -> None:
    told = copy.deepcopy(payload)
    told["run"]["commits"] = [
        {"commit": number * 40, "date": "", "dirty": dirty}
        for number, dirty in (("1", False), ("2", True))
    ]
    text = " ".join(Tree(render_page(told, "", TEMPLATES)).root.all("header")[0].text.split())
    assert "commit 1111111111 commit 2222222222 with changes that are in no commit Cells" in text, (
        text
    )


def test_sorting_and_filters_find_what_they_need(page: Element) -> None:
    """What the scripts read: the model of each group, the table and the columns of each table."""
    groups = [d for d in page.all("details") if "group" in d.attributes.get("class", "").split()]
    options = {option.attributes["value"] for option in page.all("select")[0].all("option")}
    assert {group.attributes["data-model"] for group in groups} == options - {""}
    columns = stored(page)["columns"]
    for group in groups:
        [table] = [t for t in group.all("table") if "data-table" in t.attributes]
        for head in table.all("thead")[0].all("tr")[-1].all("th")[1:]:
            assert head.attributes["data-column"] in columns[table.attributes["data-table"]]
