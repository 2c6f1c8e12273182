from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lpsteps.distillation.settings import DistillationSettings
from lpsteps.errors import LpstepsError
from lpsteps.validation import validated


def test_the_defaults_are_those_of_the_paper() -> None:
    settings = DistillationSettings()
    assert (settings.objective, settings.top_k, settings.tail) == ("logits_kl", 100, False)
    assert (settings.parametrisation, settings.epochs, settings.batch) == ("full", 1, 1)
    assert (settings.learning_rate, settings.final_learning_rate_share) == (1e-4, 1 / 20)
    assert (settings.weight_decay, settings.decay_towards, settings.clip) == (1e-4, "zero", None)


@pytest.mark.parametrize(
    ("payload", "mode"),
    [
        ({}, "fused"),
        ({"epochs": 1}, "fused"),
        ({"epochs": 2}, "offline"),
        ({"epochs": 2, "top_k": None}, "fused"),
        ({"epochs": 2, "objective": "feature_mse"}, "fused"),
        ({"epochs": 2, "mode": "fused"}, "fused"),
        ({"mode": "offline"}, "offline"),
    ],
)
def test_auto_stores_targets_where_later_epochs_repay_them(
    payload: dict[str, Any], mode: str
) -> None:
    assert DistillationSettings.model_validate(payload).resolved_mode() == mode


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"top_k": None, "tail": True}, "tail: true: with top_k null"),
        ({"objective": "feature_mse", "tail": True}, "tail: true: only objective logits_kl"),
        ({"batch": 4, "micro_batch": 3}, "micro_batch: 3: must divide batch, which is 4"),
        ({"mode": "offline", "objective": "feature_mse"}, "mode: offline: objective feature_mse"),
        ({"mode": "offline", "top_k": None}, "mode: offline: with top_k null"),
        ({"ranks": 2}, "ranks: unknown key, did you mean 'rank'"),
    ],
)
def test_contradictions_are_refused_with_the_key(payload: dict[str, Any], message: str) -> None:
    with pytest.raises(LpstepsError, match=f"^distillations.kl: {message}"):
        validated(DistillationSettings, payload, "distillations.kl")


def test_a_micro_batch_divides_the_batch_also_when_it_is_the_default() -> None:
    assert DistillationSettings(batch=4, micro_batch=2).micro_batch == 2
    with pytest.raises(ValidationError, match="must divide batch, which is 1"):
        DistillationSettings(micro_batch=2)
