"""The model card and the mergekit configuration of an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lpsteps.artifacts import sha256_file, write_json
from lpsteps.errors import LpstepsError
from lpsteps.evaluation.score import Samples, Score, write_score
from lpsteps.export.mergekit import mergekit_config
from lpsteps.export.model_card import licence_identifier, model_card, title
from lpsteps.export.record import ExportRecord, ScoreFacts
from lpsteps.export.settings import BaseModelFacts, ExportSettings, MethodFacts
from lpsteps.plan import Plan

BASE = {
    "title": "Tiny",
    "source": "owner/tiny",
    "revision": "0123456789abcdef0123456789abcdef01234567",
    "repo": "owner/tiny",
    "folder": "resources/models/tiny",
    "licence": "Apache-2.0",
}
SELECTION = MethodFacts(
    name="s", title="Window", method="contiguous_cosine", params={}, paper="https://example.org/s"
)
RECOVERY = MethodFacts(
    name="r", title="LinearPatch", method="linearpatch", params={"grouping": "per_gap"}, paper=""
)


COPA = Score(
    model="m",
    variant="v",
    benchmark="copa",
    protocol="harness",
    metric="acc",
    value=50.0,
    unit="percent",
    stderr=None,
    n=2,
    limited=True,
    total=100,
    settings={"shots": 0},
    samples=Samples(ids=[0, 1], values=[1, 0]),
)


def score(value: float, **changes: Any) -> ScoreFacts:
    facts = {
        "benchmark": "wikipedia",
        "metric": "ppl",
        "unit": "perplexity",
        "value": value,
        "stderr": 1.25,
        "n": 4,
        "total": 90,
        "path": "results/wikipedia.json",
        "sha256": "ab" * 32,
    }
    return ScoreFacts(**facts | changes)


def record(settings: dict[str, Any] | None = None, **changes: Any) -> ExportRecord:
    facts: dict[str, Any] = {
        "form": "layer_pruned",
        "needs_trust": True,
        "dtype": "float32",
        "n_layers": 30,
        "removed_layers": [21, 20, 22],
        "restored_layers": [],
        "parameters": 1234567,
        "logits_deviation": 0.0,
        "scores": [score(20.0)],
        "dense_scores": [score(10.0)],
        "lineage": {},
    }
    own: dict[str, Any] = {
        "model": "tiny",
        "variant": "v",
        "base": BaseModelFacts(**BASE),
        "calibration": "wikipedia",
        "selection": SELECTION,
        "recovery": RECOVERY,
        "benchmarks": {"wikipedia": "Wikipedia"},
        "seed": 0,
    }
    return ExportRecord(settings=ExportSettings(**own | (settings or {})), **facts | changes)


def front_matter(card: str) -> dict[str, Any]:
    empty, front, _ = card.split("---\n", 2)
    assert empty == ""
    content: dict[str, Any] = yaml.safe_load(front)
    return content


def test_the_card_tells_layers_methods_and_scores() -> None:
    card = model_card(record())
    assert front_matter(card) == {
        "license": "apache-2.0",
        "base_model": "owner/tiny",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["pruned", "contiguous-cosine", "linearpatch"],
    }
    assert "# Tiny, 27 of 30 layers, LinearPatch\n" in card
    assert "Layers removed, counted from 0: [20,23)" in card
    assert "[Window](https://example.org/s) (`contiguous_cosine`)" in card
    assert "LinearPatch (`linearpatch`, grouping per_gap)" in card
    assert "| Wikipedia | ppl | 4 of 90 | 10.00 ± 1.25 | 20.00 ± 1.25 | `abababababab` |" in card
    assert "Scores on a part of the samples are no scores of the benchmark." in card
    assert "owner/tiny, 0123456789)" in card
    assert "trust_remote_code=True" in card


def test_a_stock_model_needs_no_trust() -> None:
    card = model_card(record(form="stock", needs_trust=False))
    assert "trust_remote_code" not in card and "the dense model's own architecture" in card


def test_a_model_with_code_of_its_own_needs_trust_in_any_form() -> None:
    card = model_card(record(form="stock", needs_trust=True))
    assert "AutoTokenizer.from_pretrained(folder, trust_remote_code=True)" in card
    assert "AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)" in card


def test_layers_that_came_back_count_in_title_and_introduction() -> None:
    card = model_card(record(restored_layers=[20]))
    assert "# Tiny, 28 of 30 layers, LinearPatch\n" in card
    assert "without 3 of its 30 decoder layers; 1 came back with other weights." in card


def tags(card: str) -> list[str]:
    return yaml.safe_load(card.split("---\n")[1])["tags"]


def test_only_what_was_pruned_is_tagged_so() -> None:
    assert tags(model_card(record())) == ["pruned", "contiguous-cosine", "linearpatch"]
    dense = {"selection": None, "recovery": None, "calibration": None}
    assert tags(model_card(record(dense, removed_layers=[], form="stock"))) == []


def test_full_scores_have_no_warning() -> None:
    card = model_card(record(scores=[score(20.0, n=90, stderr=None)], dense_scores=[]))
    assert "| Wikipedia | ppl | 90 |  | 20.00 | `abababababab` |" in card
    assert "on a part of the samples" not in card


def test_the_card_shows_what_a_score_file_says(tmp_path: Path) -> None:
    path = tmp_path / "copa.json"
    write_score(path, COPA)
    read = ScoreFacts.read(path)
    assert (read.value, read.path, read.sha256) == (50.0, str(path), sha256_file(path))
    card = model_card(record(scores=[read], dense_scores=[]))
    assert f"| copa | acc | 2 of 100 |  | 50.00 | `{read.sha256[:12]}` |" in card


def test_a_score_file_with_a_wrong_value_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "wikipedia.json"
    write_json(path, COPA.model_dump(by_alias=True) | {"value": "much"})
    with pytest.raises(LpstepsError, match=r"wikipedia\.json: value: 'much': must be a number"):
        ScoreFacts.read(path)


def test_a_variant_without_scores_says_so() -> None:
    card = model_card(record(scores=[], dense_scores=[]))
    assert "it was not scored" in card and "| benchmark |" not in card


def test_a_distilled_patch_tells_its_training() -> None:
    trained = RECOVERY.model_copy(update={"start": "linearpatch", "training": {"epochs": 3}})
    card = model_card(record({"recovery": trained}))
    assert "Trained by distillation from `linearpatch`: epochs 3" in card


def test_dense_and_narrower_models_have_titles_of_their_own() -> None:
    dense = record(
        {"selection": None, "recovery": None, "calibration": None}, removed_layers=[], form="stock"
    )
    assert title(dense) == "Tiny"
    assert "Layers removed" not in model_card(dense) and "mergekit" not in model_card(dense)
    width = MethodFacts(name="w", title="LLM-Pruner", method="llm_pruner", params={}, paper="")
    narrow = record(
        {"selection": None, "recovery": None, "width": width},
        removed_layers=[],
        form="width_pruned",
    )
    assert title(narrow) == "Tiny, LLM-Pruner"
    assert "`modeling_width_pruned.py`" in model_card(narrow)


def test_an_unrepaired_model_names_no_repair() -> None:
    none = RECOVERY.model_copy(update={"method": "none", "title": "none"})
    assert title(record({"recovery": none})) == "Tiny, 27 of 30 layers"
    trained = none.model_copy(update={"title": "Trained", "training": {"epochs": 3}})
    assert title(record({"recovery": trained})) == "Tiny, 27 of 30 layers, Trained"


@pytest.mark.parametrize(
    ("licence", "identifier"),
    [("Apache-2.0", "apache-2.0"), ("", "unknown"), ("Llama 2 Community License", "other")],
)
def test_a_licence_is_never_guessed(licence: str, identifier: str) -> None:
    assert licence_identifier(licence) == identifier
    card = model_card(record({"base": BaseModelFacts(**BASE | {"licence": licence})}))
    assert front_matter(card)["license"] == identifier
    assert (licence if licence else "see the model's own page") in card


def test_a_base_without_a_repository_is_no_link() -> None:
    card = model_card(record({"base": BaseModelFacts(**BASE | {"repo": None})}))
    assert "base_model" not in front_matter(card)
    assert "huggingface.co" not in card


@pytest.mark.parametrize(
    ("order", "ranges"),
    [
        ((3, 2), [[0, 2], [4, 6]]),
        ((0, 5), [[1, 5]]),
        ((0, 2, 3), [[1, 2], [4, 6]]),
        ((), [[0, 6]]),
    ],
)
def test_mergekit_slices_are_the_layers_that_stay(order: Any, ranges: list[list[int]]) -> None:
    content = yaml.safe_load(mergekit_config(Plan.removing(6, order), "owner/m", "bfloat16"))
    assert (content["merge_method"], content["dtype"]) == ("passthrough", "bfloat16")
    sources = [part["sources"] for part in content["slices"]]
    assert sources == [[{"model": "owner/m", "layer_range": own}] for own in ranges]
