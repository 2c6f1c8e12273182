"""Whether configs of pruned models describe the layers that are left."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import TOKENS, exported, patches_of, plan_of
from tiny_families import BY_NUMBER, FAMILIES, FURTHER, GEMMA4

from lpsteps.errors import LpstepsError
from lpsteps.export.checkpoint import Pruning
from lpsteps.export.shortened_config import check_shortened_config
from lpsteps.models.surgery import apply_plan


@pytest.mark.parametrize("family", sorted([*FAMILIES, *FURTHER]))
def test_ordinary_families_describe_what_is_left(
    family: str, tiny_model: Callable[..., Any]
) -> None:
    model = tiny_model(family)
    plan = plan_of(0, 2, 3, 5)
    apply_plan(model, plan, patches_of(plan, "matrix"))
    check_shortened_config(model)


@pytest.mark.parametrize("family", sorted(BY_NUMBER))
def test_layers_that_a_config_places_by_number(
    family: str,
    tiny_model: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FAMILIES, family, BY_NUMBER[family])
    model = tiny_model(family)
    pruned = copy.deepcopy(model)
    # In memory the first of those that are left still has experts.
    apply_plan(pruned, plan_of(0))
    message = (
        rf"model_type: {family}: cannot be exported without the removed layers: "
        r"model\.layers\.0\.mlp\.down_proj\.weight: not there in the pruned model, \[48, 80\] in "
    )
    with pytest.raises(LpstepsError, match=message) as error:
        check_shortened_config(pruned)
    assert "\n" not in str(error.value)

    pruned = copy.deepcopy(model)
    apply_plan(pruned, plan_of(2))
    check_shortened_config(pruned)
    found, form = exported(model, Pruning(plan_of(2)), tmp_path / "export")
    assert form == "stock"
    torch.testing.assert_close(found(TOKENS).logits, pruned(TOKENS).logits, rtol=1e-5, atol=1e-5)


def test_settings_that_are_corrected_when_they_are_read(
    tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "gemma4", GEMMA4)
    model = tiny_model("gemma4")
    apply_plan(model, plan_of(1, 3, 5))
    with pytest.raises(
        LpstepsError, match=r"layer_types\[2\]: sliding_attention .*, full_attention "
    ):
        check_shortened_config(model)
