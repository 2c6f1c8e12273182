"""Tables of costs: every number is the one that stands in the file, or there is a reason."""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import report_example as example
from report_example import LARGE, ROOT, SMALL

from lpsteps.artifacts import read_json, sha256_file, write_json
from lpsteps.errors import LpstepsError
from lpsteps.overheads.measurements import (
    Conditions,
    OperationFacts,
    Overheads,
    Relative,
    Spread,
)
from lpsteps.overheads.storage import storage_facts
from lpsteps.report.definitions import TableDefinition, load_table
from lpsteps.report.evidence import gather_evidence, parse_build_spec
from lpsteps.report.formats import format_digits
from lpsteps.report.page import render_page
from lpsteps.report.payload import build_payload
from lpsteps.report.published import read_published
from lpsteps.report.table_csv import table_csv

TABLES = [load_table(name, ROOT / "reports/tables") for name in ("overheads", "storage")]


def operation(parameters: int, milliseconds: float) -> OperationFacts:
    """An operation beside a patch of 1,000 parameters that takes 2 ms, and 0.02 ms to decode."""
    prefill, decode = (Spread.over([k * t for k in (0.9, 1, 1.2)]) for t in (milliseconds, 0.5))
    return OperationFacts(
        parameters=parameters,
        flops=2 * parameters,
        prefill_ms=prefill,
        decode_ms=decode,
        relative=Relative(
            parameters=parameters / 1000,
            flops=parameters / 1000,
            prefill=Spread.over([milliseconds / 2] * 3),
            decode=Spread.over([25.0] * 3),
        ),
    )


def overheads(tokens: int | None = 32_768, store: tuple[int, int] | None = None) -> Overheads:
    return Overheads(
        conditions=Conditions(
            device="cpu",
            dtype="float32",
            threads=2,
            machine={"processor": "Processor X", "cores": 4},
            libraries={"torch": "2.0", "transformers": "5.0"},
            batch=4,
            length=512,
            repetitions={"prefill": 30, "decode": 70},
            layer=15,
            basis="sylvester-4",
        ),
        operations={
            "patch": operation(1000, 2.0),
            "patch-rotated": operation(50, 1.0),
            "ffn": operation(8062, 380.4),
            "layer": operation(200_000, 1234.5),
        },
        storage=storage_facts(
            top_k=100, hidden_size=4096, vocabulary=32_000, tokens=tokens, store=store
        ),
    )


Build = Callable[..., dict[str, Any]]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Build the payload of a run that shows both tables of a model."""
    monkeypatch.chdir(tmp_path)

    def payload(
        model: str = SMALL,
        content: Overheads | None = None,
        problem: str | None = None,
        definitions: list[TableDefinition] = TABLES,
    ) -> dict[str, Any]:
        path = Path(f"results/{model}/overheads.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = content or overheads()
        write_json(path, content.model_dump(mode="json", by_alias=True))
        spec = copy.deepcopy(example.spec({model: []}))
        spec |= {"tables": {table.id: {model: []} for table in definitions}}
        spec |= {"variants": {}, "plans": {}}
        parsed = parse_build_spec(spec)
        problems = {str(path): problem} if problem else {}
        evidence = gather_evidence(parsed, [path], problems)
        files = [ROOT / f"reports/published/{name}.csv" for name in ("overheads", "storage")]
        printed = [cell for file in files for cell in read_published(file)]
        digests = {str(file): sha256_file(file) for file in files}
        return build_payload(parsed, definitions, printed, digests, evidence)

    return payload


def cells_of(payload: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {cell["id"]: cell for cell in payload["cells"]}


def test_each_number_stands_where_its_source_says(build: Build) -> None:
    cells = [cell for cell in build()["cells"] if cell["status"] == "measured"]
    assert len(cells) == 4 * 7 + 5 * 3
    for cell in cells:
        source = cell["source"]
        assert source["sha256"] == sha256_file(Path(source["path"]))
        value: Any = read_json(Path(source["path"]))
        for key in source["pointer"].split("/")[1:]:
            value = value[key]
        assert value == cell["value"], cell["id"]
        assert cell["variant"] is None
        assert cell["note"]


def test_numbers_and_notes_of_operations(build: Build) -> None:
    cells = cells_of(build())
    at = f"overheads/{SMALL}/n0/ffn"
    texts = {
        column: cells[f"{at}/{column}"]["text"].replace("\N{NARROW NO-BREAK SPACE}", " ")
        for column in (
            *("parameters", "flops", "prefill", "decode"),
            *("size_ratio", "prefill_ratio", "decode_ratio"),
        )
    }
    assert texts == {
        "parameters": "8 062",
        "flops": "16 124",
        "prefill": "380",
        "decode": "0.500",
        "size_ratio": "8.06 \N{MULTIPLICATION SIGN}",
        "prefill_ratio": "190 \N{MULTIPLICATION SIGN}",
        "decode_ratio": "25.0 \N{MULTIPLICATION SIGN}",
    }
    prefill = cells[f"{at}/prefill"]
    assert prefill["value"] == pytest.approx(380.4)
    assert prefill["note"] == (
        "median of 30 turns, quartiles 361 and 418; 4 windows of 512 tokens, float32, "
        "Processor X, 2 threads, layer 15"
    )
    assert cells[f"{at}/decode"]["note"].startswith("median of 70 turns, quartiles 0.475 and 0.550")
    assert cells[f"{at}/decode_ratio"]["source"]["pointer"] == (
        "/operations/ffn/relative/decode/median"
    )
    assert cells[f"overheads/{SMALL}/n0/patch/size_ratio"]["value"] == 1.0


def test_storage_and_why_there_is_none(build: Build) -> None:
    cells = cells_of(build())
    at = f"storage/{SMALL}/n0"
    assert cells[f"{at}/targets/per_token"]["value"] == 500
    assert cells[f"{at}/targets/text"]["value"] == 500 * 32_768
    assert cells[f"{at}/targets/text"]["note"].endswith("; 32\N{NARROW NO-BREAK SPACE}768 tokens")
    assert cells[f"{at}/target-values/times_smaller"]["value"] == 40.96
    assert cells[f"{at}/store/text"]["reason"] == (
        "this run stores no targets: it makes them on the way"
    )
    stored = cells_of(build(content=overheads(tokens=None, store=(12_345, 10))))
    assert stored[f"{at}/store/per_token"]["value"] == 1234.5
    assert stored[f"{at}/store/text"]["value"] == 12_345
    assert stored[f"{at}/targets/per_token"]["status"] == "measured"
    assert stored[f"{at}/targets/text"]["reason"] == (
        "the profile does not say how many tokens of text it trains on"
    )


def test_a_file_that_does_not_verify_shows_no_number(build: Build) -> None:
    cells = build(problem="results/x: was changed")["cells"]
    assert {cell["reason"] for cell in cells if cell["model"] == SMALL} == {
        "results/x: was changed"
    }


def test_a_model_without_a_file(build: Build, tmp_path: Path) -> None:
    spec = example.spec({SMALL: []}) | {"tables": {"storage": {SMALL: []}}}
    spec |= {"variants": {}, "plans": {}}
    parsed = parse_build_spec(spec)
    payload = build_payload(parsed, TABLES[1:], [], {}, gather_evidence(parsed, [], {}))
    assert {cell["reason"] for cell in payload["cells"]} == {"there is no file of costs"}
    path = tmp_path / "results/other/overheads.json"
    path.parent.mkdir(parents=True)
    write_json(path, overheads().model_dump(mode="json", by_alias=True))
    with pytest.raises(LpstepsError, match="'other' is not a model of this profile"):
        gather_evidence(parsed, [path], {})


def test_the_claims_of_the_paper_stand_beside(build: Build) -> None:
    """In rows of their own for another model; beside ours for the one whose sizes they have."""
    apart = cells_of(build())
    claim = apart[f"overheads/{LARGE}/n0/ffn/size_ratio"]
    assert (claim["status"], claim["text"], claim["value"]) == ("published", "8", 8.0)
    assert "section 4.4" in claim["published_note"]
    beside = cells_of(build(LARGE))
    size = beside[f"overheads/{LARGE}/n0/ffn/size_ratio"]
    assert (size["status"], size["published_text"]) == ("measured", "8")
    assert size["difference"] == pytest.approx(0.062)
    assert size["verdict"]["word"] == "reproduced"
    for place, text in (("overheads/{}/n0/ffn/prefill_ratio", "190"),):
        speed = beside[place.format(LARGE)]
        assert speed["published_text"] == text
        assert (speed["difference"], speed["verdict"]) == (None, None)
        assert speed["unjudged"].startswith("a time of another machine")
    storage = beside[f"storage/{LARGE}/n0/target-values/times_smaller"]
    assert (storage["published_text"], storage["verdict"]) == ("40", None)
    others = [
        cell
        for cell in beside.values()
        if cell["published_text"] is not None and cell not in (size, storage)
    ]
    assert [cell["column"] for cell in others] == ["prefill_ratio"]


def test_tables_as_csv_and_on_the_page(build: Build) -> None:
    payload = build()
    lines = list(csv.DictReader(io.StringIO(table_csv(payload, "overheads"))))
    values = {line["id"]: line["value"] for line in lines}
    assert values[f"overheads/{SMALL}/n0/layer/parameters"] == "200000"
    folder = ROOT / "reports/templates"
    templates = {path.name: path.read_text() for path in folder.iterdir()}
    run = {**payload["run"], "commits": [], "machines": []}
    whole = {**payload, "run": run, "figures": [], "artifacts": {}}
    page = render_page(whole, "0" * 64, templates)
    for text in (
        "What a patch costs",
        "What stored targets take",
        "380",
        "1234",
        "this run stores",
    ):
        assert text in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overhead": "targets"}, "row 'a': overhead: targets: column 'p' of kind "),
        ({"overhead": None}, "needs one of patch, patch-rotated, ffn, layer"),
        ({"overhead": "pitch"}, "pitch"),
        ({"selection": "sleb"}, "costs are those of no selection"),
    ],
)
def test_rows_and_columns_of_costs_go_together(changes: dict[str, Any], message: str) -> None:
    column = {"id": "p", "title": "P", "kind": "overhead_parameters", "unit": "parameters"}
    row = {"id": "a", "label": "A", "overhead": "patch"}
    table = {"id": "own", "title": "Own", "caption": "C", "columns": [column], "rows": [row]}
    assert TableDefinition.model_validate(table).variants() == ()
    with pytest.raises(ValueError, match=message):
        TableDefinition.model_validate({**table, "rows": [{**row, **changes}]})


def test_a_row_of_costs_needs_a_column_of_costs() -> None:
    row = {"id": "a", "label": "A", "overhead": "patch"}
    column = {"id": "novels", "title": "N", "unit": "perplexity"}
    table = {"id": "own", "title": "Own", "caption": "C", "columns": [column], "rows": [row]}
    with pytest.raises(ValueError, match=r"overhead: patch: column 'novels' .* needs none"):
        TableDefinition.model_validate(table)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01234, "0.0123"),
        (0.5, "0.500"),
        (8.0625, "8.06"),
        (40.96, "41.0"),
        (190.2, "190"),
        (1234.5, "1234"),
    ],
)
def test_three_digits(value: float, text: str) -> None:
    assert format_digits(value) == text
