from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from lpsteps.distillation.parametrisation import TrainablePatches
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.distillation.split_model import SplitModel
from lpsteps.errors import LpstepsError
from lpsteps.models.layers import decoder_of
from lpsteps.models.surgery import apply_plan
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.plan import Plan

ONE_GAP = Plan.removing(6, (3, 2))
# A gap that reaches the final norm, and one right behind the embedding.
TWO_GAPS = Plan.removing(6, (0, 4, 5))


def tokens(batch: int = 2, length: int = 11) -> torch.Tensor:
    return torch.randint(2, 128, (batch, length), generator=torch.Generator().manual_seed(batch))


def matrices(plan: Plan, hidden_size: int = 48) -> tuple[GapPatch, ...]:
    random = np.random.default_rng(0)
    noise = random.standard_normal((len(plan.gaps), hidden_size, hidden_size)) / 30
    return tuple(
        GapPatch(*gap, (Operation("matrix", np.eye(hidden_size) + matrix),))
        for gap, matrix in zip(plan.gaps, noise, strict=True)
    )


def changed(model: Any, *names: str) -> dict[str, Any]:
    """New values for all parameters whose names begin with one of the given parts."""
    random = np.random.default_rng(1)
    return {
        name: (parameter.numpy() + 0.1 * random.standard_normal(parameter.shape)).astype("float32")
        for name, parameter in decoder_of(model).parameters().items()
        if name.startswith(names)
    }


def split(model: Any, plan: Plan, start: PatchSet, **settings: Any) -> SplitModel:
    parametrisation = DistillationSettings.model_validate(settings)
    hidden_size = model.config.hidden_size
    patches = TrainablePatches(start, plan, hidden_size, parametrisation, seed=0)
    checkpointing = parametrisation.activation_checkpointing
    return SplitModel(model, plan, start, patches, activation_checkpointing=checkpointing)


def pruned_rows(model: Any, plan: Plan, start: PatchSet, ids: torch.Tensor) -> torch.Tensor:
    pruned = copy.deepcopy(model)
    apply_plan(pruned, plan, start)
    rows: torch.Tensor = decoder_of(pruned).backbone(ids, use_cache=False).last_hidden_state
    return rows


def test_teacher_and_student_are_the_dense_and_the_pruned_model(
    tiny_model: Any, family: str
) -> None:
    model = tiny_model(family)
    for plan in (ONE_GAP, TWO_GAPS):
        start = PatchSet(matrices(plan))
        parts = split(model, plan, start)
        assert parts.branch == plan.gaps[0][0]
        for ids in (tokens(2), tokens(1), tokens(2, 7)):
            hidden = parts.shared(ids)
            dense = decoder_of(model).backbone(ids, use_cache=False).last_hidden_state
            torch.testing.assert_close(parts.teacher(hidden), dense, rtol=1e-4, atol=1e-5)
            expected = pruned_rows(model, plan, start, ids)
            torch.testing.assert_close(parts.student(hidden), expected, rtol=1e-4, atol=1e-5)
            assert not expected.allclose(dense, atol=1e-2)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "bloom"])
def test_replacements_and_restored_layers_are_the_students_alone(
    tiny_model: Any, family: str
) -> None:
    model = tiny_model(family)
    norm = {"gpt_neox": "final_layer_norm", "bloom": "ln_f"}.get(family, "norm")
    dense = decoder_of(model).backbone(tokens(), use_cache=False).last_hidden_state
    start = PatchSet(
        matrices(ONE_GAP),
        replacements=changed(model, "layers.1.mlp", "layers.3.", "layers.5.mlp", norm),
        restored=(3,),
    )
    weights = copy.deepcopy(model.state_dict())
    for parametrisation in ("full", "own"):
        parts = split(model, ONE_GAP, start, parametrisation=parametrisation)
        assert parts.branch == 1
        hidden = parts.shared(tokens())
        torch.testing.assert_close(parts.teacher(hidden), dense, rtol=1e-4, atol=1e-5)
        expected = pruned_rows(model, ONE_GAP, start, tokens())
        torch.testing.assert_close(parts.student(hidden), expected, rtol=1e-4, atol=1e-5)
    for name, weight in model.state_dict().items():
        assert weight.equal(weights[name]), name


def test_the_shared_layers_run_once_and_the_others_only_where_they_are_needed(
    tiny_model: Any,
) -> None:
    model = tiny_model()
    parts = split(model, ONE_GAP, PatchSet(matrices(ONE_GAP)))
    # What layers are called with is recorded in a pass of its own.
    parts.teacher(parts.shared(tokens()))
    runs = [0] * 6
    for number, layer in enumerate(decoder_of(model).layers):

        def count(*_: Any, number: int = number) -> None:
            runs[number] += 1

        layer.register_forward_hook(count)
    hidden = parts.shared(tokens())
    assert runs == [1, 1, 0, 0, 0, 0]
    parts.teacher(hidden)
    assert runs == [1, 1, 1, 1, 1, 1]
    parts.student(hidden)
    assert runs == [1, 1, 1, 1, 2, 2]


def test_what_layers_are_called_with_is_recorded_once_per_shape(tiny_model: Any) -> None:
    model = tiny_model()
    parts = split(model, ONE_GAP, PatchSet(matrices(ONE_GAP)))
    passes = [0]
    model.get_input_embeddings().register_forward_hook(
        lambda *_: passes.__setitem__(0, passes[0] + 1)
    )
    for ids, expected in ((tokens(2), 1), (tokens(2), 1), (tokens(1), 2), (tokens(2), 2)):
        hidden = torch.zeros(*ids.shape, 48)
        parts.teacher(hidden)
        parts.student(hidden)
        assert passes[0] == expected


def test_the_gradient_begins_at_the_first_patch(tiny_model: Any) -> None:
    model = tiny_model()
    start = PatchSet(matrices(ONE_GAP), replacements=changed(model, "layers.1.mlp"))
    model.requires_grad_(True)
    parts = split(model, ONE_GAP, start)
    traced: dict[int, bool] = {}
    for number, layer in enumerate(decoder_of(model).layers):

        def trace(*arguments: Any, number: int = number) -> None:
            traced[number] = arguments[-1].requires_grad

        layer.register_forward_hook(trace)
    hidden = parts.shared(tokens())
    assert not hidden.requires_grad
    assert not parts.teacher(hidden).requires_grad
    traced.clear()
    parts.student(hidden).square().mean().backward()  # type: ignore[no-untyped-call]
    assert traced == {1: False, 4: True, 5: True}
    assert all(weight.grad is None for weight in model.parameters())
    assert not any(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_activation_checkpointing_changes_no_gradient(tiny_model: Any, family: str) -> None:
    model = tiny_model(family)
    start = PatchSet(matrices(ONE_GAP), replacements=changed(model, "layers.2."), restored=(2,))
    gradients = []
    runs = [0]
    decoder_of(model).layers[5].register_forward_pre_hook(
        lambda *_: runs.__setitem__(0, runs[0] + 1)
    )
    for checkpointing in (False, True):
        settings = {"parametrisation": "own", "activation_checkpointing": checkpointing}
        parts = split(model, ONE_GAP, start, **settings)
        # What layers are called with is recorded in a pass of its own.
        parts.teacher(parts.shared(tokens()))
        runs[0] = 0
        parts.student(parts.shared(tokens())).square().mean().backward()  # type: ignore[no-untyped-call]
        gradients.append([weight.grad for weight in parts._patches.trained.values()])
        assert runs[0] == 1 + checkpointing
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain is not None
        assert plain.abs().max() > 0.0
        torch.testing.assert_close(checkpointed, plain)


def test_bfloat16_models_train_restored_layers_in_float32(tiny_model: Any) -> None:
    model = tiny_model()
    start = PatchSet((), replacements=changed(model, "layers.2."), restored=(2,))
    model = model.bfloat16()
    parts = split(model, ONE_GAP, start, parametrisation="own")
    rows = parts.student(parts.shared(tokens()))
    assert rows.dtype == torch.bfloat16
    assert rows.equal(pruned_rows(model, ONE_GAP, start, tokens()))
    rows.float().square().mean().backward()  # type: ignore[no-untyped-call]
    for name, weight in parts._patches.trained.items():
        assert weight.dtype == torch.float32
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0.0, name


def test_a_replaced_embedding_is_refused(tiny_model: Any) -> None:
    model = tiny_model()
    start = PatchSet(replacements=changed(model, "embed_tokens"))
    with pytest.raises(LpstepsError, match=r"^start: replacements: embed_tokens.weight: .*choose"):
        split(model, ONE_GAP, start)
