"""What the jobs of a config read, and what the tables are told of each repair."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from lpsteps import methods
from lpsteps import workflow as jobs
from lpsteps.config import Config, load_config
from lpsteps.report.evidence import parse_build_spec
from lpsteps.training import training_text

ROOT = Path(__file__).parents[2]
WINDOWS, WINDOW = 20, 500


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def config_with(folder: Path, recoveries: dict[str, Any], **calibration: int) -> Config:
    """Return the profile of all repairs with some more, on a calibration text of its own."""
    profile = yaml.safe_load(Path("config/beyond.yaml").read_text())
    text = {"corpus": "wikipedia", "windows": WINDOWS, **calibration}
    definitions = {"calibrations": {"own": text}, "recoveries": recoveries}
    path = folder / "definitions.yaml"
    path.write_text(yaml.safe_dump(definitions))
    profile["definitions"].append(str(path))
    profile |= {"calibration": "own", "window_length": WINDOW}
    return load_config(profile, ["config/beyond.yaml"])


@pytest.mark.parametrize("method", ["streamline_layer", "streamline_ffn", "lora"])
@pytest.mark.parametrize(
    "text",
    [{}, {"length": 120}, {"windows": 7, "length": 500}, {"windows": 3, "length": 250}],
)
def test_tokens_of_a_training_are_those_of_its_text(
    tmp_path: Path, method: str, text: dict[str, int]
) -> None:
    entry = {"title": "Own", "method": method, "params": {"epochs": 3, **text}}
    config = config_with(tmp_path, {"own": entry})
    facts = jobs.recovery_facts(config, "own")
    params = methods.recovery_method(method).Params(**entry["params"])
    used = training_text(np.zeros((WINDOWS, WINDOW), dtype=np.int64), params)
    assert facts["training"] == {"epochs": 3, "tokens": used.fit.size}
    assert facts["calibration_tokens"] == used.fit.size + used.heldout.size


@pytest.mark.parametrize(
    ("recovery", "tokens"),
    [
        ("none", 0),
        ("linearpatch", WINDOWS * (WINDOW - 4)),
        ("least-squares", WINDOWS * (WINDOW - 4)),
        ("replaceme", WINDOWS * (WINDOW - 4)),
    ],
)
def test_tokens_that_a_calibration_excludes_do_not_count(
    tmp_path: Path, recovery: str, tokens: int
) -> None:
    facts = jobs.recovery_facts(config_with(tmp_path, {}, exclude_first=4), recovery)
    assert (facts["calibration_tokens"], facts["training"]) == (tokens, None)


def test_levels_that_a_repair_is_unsuited_for_are_left_out_with_the_reason() -> None:
    config = load_config(
        yaml.safe_load(Path("config/beyond.yaml").read_text()), ["config/beyond.yaml"]
    )
    levels: dict[str, set[int]] = {}
    for variant in jobs.variants(config):
        levels.setdefault(variant.recovery, set()).add(variant.n)
    assert levels["streamline-layer"] == set(range(2, 10))
    assert levels["streamline-ffn"] == levels["linearpatch"] == set(range(1, 10))
    spec = parse_build_spec(jobs.build_tables_spec(config))
    reason = "one trained layer cannot stand in for a single layer"
    assert spec.recoveries["streamline-layer"].unsuited == {1: reason}
    assert spec.recoveries["streamline-ffn"].unsuited == {}


def test_a_method_without_an_opinion_takes_every_cut() -> None:
    method = ModuleType("method")
    assert methods.unsuited(method, 1) is None
    method.unsuited = lambda n: f"{n} is odd" if n % 2 else None  # type: ignore[attr-defined]
    assert [methods.unsuited(method, n) for n in (1, 2)] == ["1 is odd", None]
