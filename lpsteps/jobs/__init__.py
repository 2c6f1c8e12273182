"""From a checked config to what each job reads: variants, paths, settings and target files.

Pure functions that the rules call as ``jobs.NAME``. A job's ``spec`` holds everything from the
config that its step reads and nothing else, so that Snakemake reruns a step exactly when one of its
settings changed. All of it is plain dicts, lists, strings and numbers in a stable order, because
Snakemake compares the printed form.
"""

from lpsteps.jobs.distillations import (
    distill_spec,
    distilled,
    store_teacher_spec,
    stored_targets,
    teacher_manifest,
    teacher_stores,
)
from lpsteps.jobs.environment import run_programs_of
from lpsteps.jobs.memory import (
    build_patch_mb,
    build_tables_mb,
    choose_dtype_mb,
    distill_mb,
    extend_windows_mb,
    memory_mb,
    moments_mb,
    overheads_mb,
    prune_width_mb,
    rank_layers_mb,
    token_scales_mb,
    tokenize_corpus_mb,
)
from lpsteps.jobs.overheads import measure_overheads_spec
from lpsteps.jobs.recoveries import (
    build_patch_spec,
    distilled_recoveries,
    measure_moments_spec,
    method_recoveries,
    recovery_method,
    recovery_modules,
    recovery_needs,
    recovery_unsuited,
)
from lpsteps.jobs.scores import evaluate_spec, suite_inputs
from lpsteps.jobs.selections import (
    choose_layers_spec,
    rank_layers_spec,
    selection_modules,
    selection_needs,
)
from lpsteps.jobs.shown_variants import (
    Variant,
    models,
    plan_folders,
    selection_counts,
    variants,
)
from lpsteps.jobs.sources import (
    archive_of_dataset,
    archive_of_model,
    archive_spec,
    convert_model_spec,
    fetch_data_spec,
    fetch_model_spec,
    local_files,
    local_model_files,
    model_origin,
    refuse_unpinned,
)
from lpsteps.jobs.tables import (
    build_tables_spec,
    published_files,
    recovery_facts,
    table_inputs,
)
from lpsteps.jobs.text import (
    calibrate_spec,
    calibration_windows,
    corpora_manifest,
    corpus_windows,
    extend_windows_spec,
    extended_calibrations,
    measure_token_scales_spec,
    tokenize_corpus_spec,
    training_files,
    training_length,
    training_text,
)
from lpsteps.jobs.widths import prune_width_spec, width_modules

__all__ = [
    "Variant",
    "archive_of_dataset",
    "archive_of_model",
    "archive_spec",
    "build_patch_mb",
    "build_patch_spec",
    "build_tables_mb",
    "build_tables_spec",
    "calibrate_spec",
    "calibration_windows",
    "choose_dtype_mb",
    "choose_layers_spec",
    "convert_model_spec",
    "corpora_manifest",
    "corpus_windows",
    "distill_mb",
    "distill_spec",
    "distilled",
    "distilled_recoveries",
    "evaluate_spec",
    "extend_windows_mb",
    "extend_windows_spec",
    "extended_calibrations",
    "fetch_data_spec",
    "fetch_model_spec",
    "local_files",
    "local_model_files",
    "measure_moments_spec",
    "measure_overheads_spec",
    "measure_token_scales_spec",
    "memory_mb",
    "method_recoveries",
    "model_origin",
    "models",
    "moments_mb",
    "overheads_mb",
    "plan_folders",
    "prune_width_mb",
    "prune_width_spec",
    "published_files",
    "rank_layers_mb",
    "rank_layers_spec",
    "recovery_facts",
    "recovery_method",
    "recovery_modules",
    "recovery_needs",
    "recovery_unsuited",
    "refuse_unpinned",
    "run_programs_of",
    "selection_counts",
    "selection_modules",
    "selection_needs",
    "store_teacher_spec",
    "stored_targets",
    "suite_inputs",
    "table_inputs",
    "teacher_manifest",
    "teacher_stores",
    "token_scales_mb",
    "tokenize_corpus_mb",
    "tokenize_corpus_spec",
    "training_files",
    "training_length",
    "training_text",
    "variants",
    "width_modules",
]
