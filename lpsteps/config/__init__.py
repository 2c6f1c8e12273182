"""The typed configuration: a profile (what to run) over shared definitions (what exists).

A profile such as ``config/config.yaml`` names tables, models, pruning levels and sample limits. The
definition files that it lists say what a model, a dataset, a corpus, a selection or a recovery is.
Everything is checked here, before any job exists: unknown keys, unknown names, impossible numbers.
A mistake ends in one line that names the file, the key, the value and what would be allowed.
"""

from lpsteps.config.availability import (
    dataset_origin,
    model_source,
    unavailable,
    unavailable_calibration,
)
from lpsteps.config.definitions import (
    ArchiveSource,
    Definitions,
    DistilledRecovery,
    HubSource,
    LocalSource,
    MethodRecovery,
    Model,
    TextSource,
    TrainingText,
)
from lpsteps.config.entries import Name, Repository
from lpsteps.config.loading import load_config, load_definitions, read_config, read_yaml
from lpsteps.config.profile import Config, Profile

__all__ = [
    "ArchiveSource",
    "Config",
    "Definitions",
    "DistilledRecovery",
    "HubSource",
    "LocalSource",
    "MethodRecovery",
    "Model",
    "Name",
    "Profile",
    "Repository",
    "TextSource",
    "TrainingText",
    "dataset_origin",
    "load_config",
    "load_definitions",
    "model_source",
    "read_config",
    "read_yaml",
    "unavailable",
    "unavailable_calibration",
]
