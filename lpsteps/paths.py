"""Where each artefact of the results tree lies, one function for each.

A rule calls them with wildcards, ``windows("{model}", "{corpus}", "{split}")``; the jobs and the
report call them with names. Folders come first, then the files in them. All are relative to the
project's folder, with forward slashes, as Snakemake and the records name them.
"""

from __future__ import annotations

DENSE = "dense"
"""Folder of the dense model's scores, below that of the model."""

# Names by which a reader of many files tells what each is.
SCORES = "scores"
PLAN = "plan.json"
PATCH = "patch.manifest.json"
WIDTH = "width.manifest.json"
TRAINING_CURVE = "training.parquet"
OVERHEADS = "overheads.json"


def model_folder(model: str) -> str:
    """Return the folder of everything that is made from a model."""
    return f"results/{model}"


def calibration_folder(model: str, calibration: str) -> str:
    """Return the folder of everything that is made from a calibration."""
    return f"{model_folder(model)}/calibration/{calibration}"


def selection_folder(model: str, calibration: str, selection: str) -> str:
    """Return the folder of a ranking and its plans."""
    return f"{calibration_folder(model, calibration)}/selection/{selection}"


def plan_folder(model: str, calibration: str, selection: str, n: int | str) -> str:
    """Return the folder of a plan, which variants with the same layers share."""
    return f"{selection_folder(model, calibration, selection)}/n{n}"


def repaired_folder(of_plan: str, recovery: str) -> str:
    """Return the folder of a variant below that of its plan."""
    return f"{of_plan}/{recovery}"


def width_folder(model: str, calibration: str, width: str, n: int | str) -> str:
    """Return the folder of a variant of less width."""
    return f"{calibration_folder(model, calibration)}/width/{width}/n{n}"


def lineage_folder(model: str, lineage: str) -> str:
    """Return the folder of any variant; ``DENSE`` is the lineage of the dense model."""
    return f"{model_folder(model)}/{lineage}"


def compute(model: str) -> str:
    """Return the file of the number type that a model runs in here."""
    return f"{model_folder(model)}/compute.json"


def overheads(model: str) -> str:
    """Return the file of what patches of a model cost."""
    return f"{model_folder(model)}/{OVERHEADS}"


def windows(model: str, corpus: str, split: str) -> str:
    """Return the windows of a partition of a corpus."""
    return f"{model_folder(model)}/windows/{corpus}/{split}.parquet"


def extended_windows(model: str, calibration: str) -> str:
    """Return the windows of a calibration with text of the model's own."""
    return f"{calibration_folder(model, calibration)}/windows.parquet"


def statistics(model: str, calibration: str) -> str:
    """Return the calibration statistics."""
    return f"{calibration_folder(model, calibration)}/stats.parquet"


def ranking(model: str, calibration: str, selection: str) -> str:
    """Return the ranking of a selection."""
    return f"{selection_folder(model, calibration, selection)}/ranking.parquet"


def plan(folder: str) -> str:
    """Return the plan in its folder."""
    return f"{folder}/{PLAN}"


def token_scales(folder: str) -> str:
    """Return the token-wise scalings at a plan's cut, in the plan's folder."""
    return f"{folder}/token_scales.parquet"


def moments(folder: str, kind: str) -> str:
    """Return the manifest of the moments around a plan's gaps, in the plan's folder."""
    return f"{folder}/moments/{kind}.manifest.json"


def stored_targets(folder: str, start: str, store: str) -> str:
    """Return the manifest of the dense model's stored predictions, in the plan's folder."""
    return f"{folder}/teacher/{start}/{store}/manifest.json"


def patch(folder: str) -> str:
    """Return the manifest of a variant's patch."""
    return f"{folder}/{PATCH}"


def training_curve(folder: str) -> str:
    """Return the training curve of a distilled variant."""
    return f"{folder}/{TRAINING_CURVE}"


def width(folder: str) -> str:
    """Return the manifest of a variant of less width."""
    return f"{folder}/{WIDTH}"


def score(folder: str, benchmark: str) -> str:
    """Return a score of a variant."""
    return f"{folder}/{SCORES}/{benchmark}.json"


def checkpoint(folder: str) -> str:
    """Return the manifest of an exported variant."""
    return f"{folder}/checkpoint/manifest.json"


def tensors(manifest: str) -> str:
    """Return the safetensors file that a manifest ``X.manifest.json`` speaks for."""
    return manifest.removesuffix(".manifest.json") + ".safetensors"
