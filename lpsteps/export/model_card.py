"""The `README.md` of an export, in the form that the Hugging Face Hub shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from lpsteps.export.record import ExportRecord, ScoreFacts
from lpsteps.export.settings import BaseModelFacts, MethodFacts
from lpsteps.report.formats import format_layers, format_revision, format_value

UNKNOWN_LICENCE = "unknown"
_DIGITS = 12


def model_card(record: ExportRecord) -> str:
    """Return the card of an export."""
    return f"---\n{_front_matter(record)}---\n\n" + "\n".join(_body(record)) + "\n"


def title(record: ExportRecord) -> str:
    """Return what the model is, in a few words."""
    settings = record.settings
    if settings.width is not None:
        return f"{settings.base.title}, {settings.width.title}"
    if settings.selection is None or settings.recovery is None:
        return settings.base.title
    left = record.n_layers - len(record.removed_layers) + len(record.restored_layers)
    unrepaired = settings.recovery.method == "none" and settings.recovery.training is None
    repair = "" if unrepaired else f", {settings.recovery.title}"
    return f"{settings.base.title}, {left} of {record.n_layers} layers{repair}"


def licence_identifier(licence: str) -> str:
    """Return the Hub's identifier of a licence: `unknown` for none, `other` for a description."""
    if not licence:
        return UNKNOWN_LICENCE
    return "other" if any(mark.isspace() for mark in licence) else licence.lower()


def _front_matter(record: ExportRecord) -> str:
    base = record.settings.base
    fields: dict[str, Any] = {
        "license": licence_identifier(base.licence),
        **({"base_model": base.repo} if base.repo else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": _tags(record),
    }
    return yaml.safe_dump(fields, sort_keys=False)


def _tags(record: ExportRecord) -> list[str]:
    settings = record.settings
    methods = (settings.selection, settings.recovery, settings.width)
    tags = [facts.method.replace("_", "-") for facts in methods if facts is not None]
    return ["pruned", *tags] if tags else []


def _body(record: ExportRecord) -> Iterator[str]:
    yield f"# {title(record)}"
    yield ""
    yield from _introduction(record)
    yield from ["", "## Use", "", *_use(record)]
    yield from ["", "## How it was made", "", *_making(record)]
    yield from ["", "## Scores", "", *_scores(record)]
    yield from ["", "## Licence", "", _licence(record.settings.base)]


def _introduction(record: ExportRecord) -> Iterator[str]:
    base = record.settings.base
    name = f"[{base.title}](https://huggingface.co/{base.repo})" if base.repo else base.title
    if record.settings.width is not None:
        yield f"{name} with fewer attention heads and MLP channels."
    elif record.settings.selection is None:
        yield f"{name} as it is, with the scores that pruned models are compared with."
    else:
        removed, restored = len(record.removed_layers), len(record.restored_layers)
        again = f"; {restored} came back with other weights" if restored else ""
        yield f"{name} without {removed} of its {record.n_layers} decoder layers{again}."
    if record.form == "stock":
        yield "It has the dense model's own architecture: transformers 5 loads it as that one."
    else:
        yield (
            f"No stock architecture computes it, so the folder brings its model class along "
            f"(`modeling_{record.form}.py`), which needs transformers 5 and torch alone."
        )


def _use(record: ExportRecord) -> Iterator[str]:
    trust = ", trust_remote_code=True" if record.needs_trust else ""
    yield "```python"
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield ""
    yield 'folder = "."  # this folder, or its repository on the Hub'
    yield f"tokenizer = AutoTokenizer.from_pretrained(folder{trust})"
    yield f"model = AutoModelForCausalLM.from_pretrained(folder{trust})"
    yield 'tokens = tokenizer("The river", return_tensors="pt")'
    yield "print(tokenizer.decode(model.generate(**tokens, max_new_tokens=20)[0]))"
    yield "```"


def _making(record: ExportRecord) -> Iterator[str]:
    settings = record.settings
    base = settings.base
    revision = f", {format_revision(base.revision)}" if base.revision else ""
    yield f"- Dense model: {base.title} ({base.source}{revision})"
    if settings.selection is not None and record.removed_layers:
        yield f"- Layers removed, counted from 0: {format_layers(record.removed_layers)}"
        yield f"- Chosen by: {_method(settings.selection)}"
    if settings.width is not None:
        yield f"- Width pruned by: {_method(settings.width)}"
    if settings.recovery is not None:
        yield f"- Repaired by: {_method(settings.recovery)}"
        if settings.recovery.training is not None:
            yield (
                f"- Trained by distillation from `{settings.recovery.start}`: "
                f"{_parameters(settings.recovery.training)}"
            )
    if record.restored_layers:
        yield f"- Removed layers that came back with other weights: {record.restored_layers}"
    if settings.calibration is not None:
        yield f"- Calibration text: `{settings.calibration}`"
    yield f"- Parameters: {record.parameters:,}, weights in {record.dtype}"
    yield (
        f"- Largest deviation of a logit from the model that was scored: "
        f"{record.logits_deviation:.2g} of the largest logit of the token"
    )
    yield ""
    yield (
        "`export.json` has all of this with the hash of every file behind it; "
        "`manifest.json.record.json` has the code, the environment and the machine."
    )
    if record.removed_layers:
        yield (
            "`mergekit.yaml` has the layers that stay as slices for mergekit, without the repair."
        )


def _method(facts: MethodFacts) -> str:
    name = f"[{facts.title}]({facts.paper})" if facts.paper else facts.title
    return f"{name} (`{facts.method}`{', ' if facts.params else ''}{_parameters(facts.params)})"


def _parameters(params: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in params.items())


def _scores(record: ExportRecord) -> Iterator[str]:
    if not record.scores:
        yield "No table of the run shows this variant, so it was not scored."
        return
    yield "| benchmark | metric | samples | dense | this model | score file, SHA-256 |"
    yield "|---|---|---|---|---|---|"
    dense = {score.benchmark: score for score in record.dense_scores}
    for score in record.scores:
        name = record.settings.benchmarks.get(score.benchmark, score.benchmark)
        samples = f"{score.n} of {score.total}" if score.n < score.total else f"{score.n}"
        columns = [
            name,
            score.metric,
            samples,
            _shown(dense.get(score.benchmark)),
            _shown(score),
            f"`{score.sha256[:_DIGITS]}`",
        ]
        yield f"| {' | '.join(columns)} |"
    yield ""
    yield _score_note(record.scores)


def _shown(score: ScoreFacts | None) -> str:
    if score is None:
        return ""
    error = "" if score.stderr is None else f" ± {format_value(score.stderr)}"
    return format_value(score.value) + error


def _score_note(scores: Sequence[ScoreFacts]) -> str:
    limited = any(score.n < score.total for score in scores)
    part = " Scores on a part of the samples are no scores of the benchmark." if limited else ""
    return f"Accuracies are in percent; behind ± is the standard error.{part}"


def _licence(base: BaseModelFacts) -> str:
    if base.licence:
        return f"The weights keep the licence of the dense model: {base.licence}."
    return (
        "The weights keep the licence of the dense model, which is not recorded here: see the "
        "model's own page."
    )
