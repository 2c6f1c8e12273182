"""Windows of text: which there are, what cuts them, and who reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lpsteps import paths
from lpsteps.config import Config, TextSource, TrainingText
from lpsteps.errors import LpstepsError, nearest
from lpsteps.report.printed_protocol import WINDOW_LENGTH


def corpora_manifest(config: Config, corpus: str) -> str:
    """Return the manifest of the dataset that a corpus is cut from."""
    return f"resources/data/{config.definitions.corpora[corpus].dataset}/manifest.json"


def tokenize_corpus_spec(config: Config, model: str, corpus: str, split: str) -> dict[str, Any]:
    """Return the settings of ``tokenize_corpus``."""
    entry = config.definitions.corpora[corpus]
    return {
        "corpus": corpus,
        "split": split,
        "dataset_split": entry.split,
        "text": entry.text,
        "group": entry.group,
        "separator": entry.separator,
        "partitions": entry.partitions,
        "division": entry.division,
        "seed": entry.seed,
        "sampling": entry.sampling,
        "count": entry.count,
        "length": config.window_length(corpus),
        "add_bos": config.definitions.models[model].add_bos,
        **bos_setting(config, model),
    }


def bos_setting(config: Config, model: str) -> dict[str, bool]:
    """Return what a spec says of a BOS token in every window: nothing for a model without."""
    # A key that is off would change the specs of all models, and rerun their jobs.
    return {"bos_in_windows": True} if config.definitions.models[model].bos_in_windows else {}


def corpus_windows(config: Config, model: str, calibration: str) -> str:
    """Return the windows of a calibration's corpus."""
    entry = config.definitions.calibrations[calibration]
    return paths.windows(model, entry.corpus, entry.split)


def calibration_length(config: Config, calibration: str) -> int:
    """Return the tokens of each window of a calibration."""
    return config.window_length(config.definitions.calibrations[calibration].corpus)


def is_printed_calibration(config: Config, calibration: str) -> bool:
    """Whether the rows of the paper that name no other text read this one."""
    printed = config.definitions.calibrations[calibration].printed
    return printed and calibration_length(config, calibration) == WINDOW_LENGTH


def calibration_windows(config: Config, model: str, calibration: str) -> str:
    """Return the windows that a calibration reads: the corpus's, or with the model's own."""
    if config.definitions.calibrations[calibration].generated:
        return paths.extended_windows(model, calibration)
    return corpus_windows(config, model, calibration)


def extended_calibrations(config: Config) -> list[str]:
    """Return the calibrations with text of the model's own, sorted."""
    entries = config.definitions.calibrations
    return sorted(name for name in entries if entries[name].generated)


def extend_windows_spec(config: Config, model: str, calibration: str) -> dict[str, Any]:
    """Return the settings of ``extend_windows``."""
    entry = config.definitions.calibrations[calibration]
    return {
        "windows": entry.windows,
        "generated": entry.generated,
        "seed": config.profile.seed,
        **bos_setting(config, model),
    }


def calibrate_spec(config: Config, calibration: str) -> dict[str, Any]:
    """Return the settings of ``calibrate``."""
    entry = config.definitions.calibrations[calibration]
    return {
        "windows": entry.total_windows,
        "exclude_first": entry.exclude_first,
        "batch": 1,
        "basis": "hadamard",
    }


def measure_token_scales_spec(config: Config, calibration: str) -> dict[str, Any]:
    """Return the settings of ``measure_token_scales``: the text is that of the calibration."""
    entry = config.definitions.calibrations[calibration]
    return {
        "windows": entry.total_windows,
        "exclude_first": entry.exclude_first,
        "basis": "hadamard",
    }


def training_text(config: Config) -> TrainingText:
    """Return the text that the profile's distilled recoveries are trained on.

    Raises:
        LpstepsError: The profile names none; it may do so when no table shows such a recovery.
    """
    if config.profile.training_text is None:
        raise LpstepsError(
            f"{config.source}: training_text: null: a distillation needs one; "
            f"{nearest('', config.definitions.training_texts)}"
        )
    return config.definitions.training_texts[config.profile.training_text]


def is_printed_training_text(config: Config) -> bool:
    """Whether the paper's distilled rows are trained on the profile's text.

    True in a profile without one, which shows no such row.
    """
    if config.profile.training_text is None:
        return True
    return training_text(config).printed and training_length(config) == WINDOW_LENGTH


def training_length(config: Config) -> int:
    """Return the tokens of each window of the training text."""
    return config.window_length(training_text(config).fit[0].corpus)


def training_files(model: str, sources: Sequence[TextSource]) -> dict[str, str]:
    """Return ``{corpus: windows}`` of a part of the training text, in its order."""
    return {source.corpus: paths.windows(model, source.corpus, source.split) for source in sources}
