"""Write a variant as a Hugging Face checkpoint, with its model card and how it was made.

By hand::

    python -m lpsteps.steps.export_model --model resources/models/M/manifest.json \
        --compute results/M/compute.json --plan plan.json --patch-manifest patch.manifest.json \
        --modeling lpsteps/export/modeling_layer_pruned.py --score copa=scores/copa.json \
        --manifest checkpoint/manifest.json --spec SPEC

where SPEC is what :class:`lpsteps.export.settings.ExportSettings` describes. The written model is
loaded again by transformers alone and must give the logits of the model that was scored.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import torch

from lpsteps.artifacts import file_manifest, write_json
from lpsteps.errors import LpstepsError
from lpsteps.evaluation.variant import (
    add_variant_arguments,
    load_variant,
    paths_by_benchmark,
)
from lpsteps.export.checkpoint import (
    Pruning,
    copy_companions,
    load_checkpoint,
    write_checkpoint,
)
from lpsteps.export.comparison import (
    EXACT_TOLERANCE,
    check_deviation,
    logits_on,
    relative_deviation,
    sample_tokens,
)
from lpsteps.export.exact_fold import check_fold, fold_tolerance
from lpsteps.export.mergekit import mergekit_config
from lpsteps.export.model_card import model_card
from lpsteps.export.record import EXPORT_FILE, ExportRecord, ScoreFacts
from lpsteps.export.settings import ExportSettings, Form
from lpsteps.export.shortened_config import check_shortened_config
from lpsteps.export.tokenizer import keep_tokenizer
from lpsteps.models.layers import decoder_of
from lpsteps.models.loading import load_model
from lpsteps.patches import read_patches
from lpsteps.plan import read_plan
from lpsteps.program import StepRun, run_step
from lpsteps.progress import elapsed
from lpsteps.provenance import Lineage
from lpsteps.report.lineage import artifact_graph
from lpsteps.validation import validated
from lpsteps.width_pruning import read_width


def _add_arguments(parser: ArgumentParser) -> None:
    add_variant_arguments(parser)
    parser.add_argument("--modeling", type=Path, help="source of the model class, Python")
    for option, whose in (("--score", "the variant"), ("--dense-score", "the dense model")):
        parser.add_argument(
            option,
            action="append",
            default=[],
            metavar="BENCHMARK=PATH",
            help=f"score of {whose}, JSON; once per benchmark",
        )
    parser.add_argument(
        "--manifest", type=Path, required=True, help="output; the checkpoint is put beside it"
    )


def _scores(step: StepRun, option: str, assignments: Sequence[str]) -> list[ScoreFacts]:
    names = [assignment.partition("=")[0] for assignment in assignments]
    paths = paths_by_benchmark(option, assignments, names)
    return [ScoreFacts.read(step.read(path)) for path in paths.values()]


def _pruning(arguments: Namespace) -> Pruning:
    patches, width = arguments.patch_manifest, arguments.width_manifest
    return Pruning(
        plan=read_plan(arguments.plan) if arguments.plan else None,
        patches=read_patches(patches) if patches else None,
        width=read_width(width) if width else None,
    )


def _verified_lineage(inputs: Sequence[Path | None], scores: Sequence[ScoreFacts]) -> Lineage:
    """Verify everything behind the weights and the scores.

    Raises:
        LpstepsError: A file is not what its record says.
    """
    lineage = Lineage()
    for path in [*filter(None, inputs), *(Path(score.path) for score in scores)]:
        problem = lineage.problem(path)
        if problem is not None:
            raise LpstepsError(f"not exported: {problem}")
    return lineage


def _run(step: StepRun, arguments: Namespace) -> None:
    settings = validated(ExportSettings, step.spec, "--spec")
    folder = step.write_folder(arguments.manifest)
    scores = _scores(step, "--score", arguments.score)
    dense_scores = _scores(step, "--dense-score", arguments.dense_score)

    scored, facts = load_variant(step, arguments)
    pruning, tolerance = _pruning(arguments), EXACT_TOLERANCE
    if pruning.plan is not None:
        # Before anything is computed and written that could not be loaded.
        check_shortened_config(scored)
    tokens = sample_tokens(scored.config.vocab_size, settings.seed)
    expected, device, dtype = logits_on(scored, tokens), scored.device, scored.dtype
    plan, patches, folds = pruning.plan, pruning.patches, pruning.folds(scored.config.model_type)
    if folds and plan and patches:
        tolerance = fold_tolerance(scored, plan, patches, tokens)
    # One copy of the weights at a time.
    del scored

    source = arguments.model.parent
    if folds and plan and patches and dtype != torch.float32:
        with elapsed("folding in float32"):
            check_fold(source, plan, patches, tokens)

    sources = [arguments.model, arguments.plan, arguments.patch_manifest, arguments.width_manifest]
    lineage = _verified_lineage(sources, [*scores, *dense_scores])
    manifest = step.read_manifest(arguments.model)
    model = load_model(source, dtype, device=torch.device("cpu"))
    n_layers = len(decoder_of(model).layers)
    template = step.read(arguments.modeling).read_text("utf-8") if arguments.modeling else None
    with elapsed("writing the checkpoint"):
        form = write_checkpoint(model, pruning, folder, template)
        del model
        copy_companions(source, manifest["files"], folder)

    trusted = form != "stock" or bool(manifest.get("trust_remote_code"))
    keep_tokenizer(source, folder, form, trusted=trusted)
    exported = load_checkpoint(folder, device=device, trusted=trusted)
    deviation = relative_deviation(logits_on(exported, tokens), expected)
    check_deviation(deviation, tolerance)
    step.note("form", form)
    step.note("logits_deviation", deviation)

    record = ExportRecord(
        settings=settings,
        form=form,
        needs_trust=trusted,
        dtype=facts["dtype"],
        n_layers=n_layers,
        removed_layers=list(pruning.plan.order) if pruning.plan else [],
        restored_layers=list(pruning.patches.restored) if pruning.patches else [],
        parameters=sum(parameter.numel() for parameter in exported.parameters()),
        logits_deviation=deviation,
        scores=scores,
        dense_scores=dense_scores,
        lineage=artifact_graph(lineage, lineage.artifacts),
    )
    _write_documents(folder, record, pruning, form)


def _write_documents(folder: Path, record: ExportRecord, pruning: Pruning, form: Form) -> None:
    base = record.settings.base
    write_json(folder / EXPORT_FILE, record.model_dump(mode="json", by_alias=True))
    (folder / "README.md").write_text(model_card(record), encoding="utf-8")
    if pruning.plan is not None:
        text = mergekit_config(pruning.plan, base.repo or base.folder, record.dtype)
        (folder / "mergekit.yaml").write_text(text, encoding="utf-8")
    names = [path.name for path in folder.iterdir()]
    head = {"schema": 1, "export": record.settings.variant, "form": form}
    write_json(folder / "manifest.json", head | file_manifest(folder, names))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; see the module's docstring for the command line."""
    return run_step("lpsteps.steps.export_model", argv, _add_arguments, _run)


if __name__ == "__main__":
    raise SystemExit(main())
