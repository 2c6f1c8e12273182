from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import kl_div

from lpsteps.distillation import divergence
from lpsteps.distillation.divergence import (
    OutputHead,
    TeacherTargets,
    top_divergence,
    top_targets,
    vocabulary_divergence,
)
from lpsteps.models.layers import Decoder

HIDDEN_SIZE = 16
VOCABULARY = 1000
TOP_K = 7
HEADS = [(False, None), (True, None), (False, 3.0), (True, 3.0)]


def decoder(bias: bool, cap: float | None, dtype: torch.dtype = torch.float32) -> Decoder:
    torch.manual_seed(0)
    head = nn.Linear(HIDDEN_SIZE, VOCABULARY, bias=bias, dtype=dtype).requires_grad_(False)
    head.weight.normal_(std=0.7)
    nothing: Any = None
    return Decoder(nothing, nothing, nothing, head, cap)


def rows_of(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 5, HIDDEN_SIZE, generator=generator).to(dtype)


def log_probabilities(parts: Decoder, rows: torch.Tensor) -> torch.Tensor:
    """A plain float64 softmax over the whole vocabulary, position by position."""
    weight = parts.lm_head.get_parameter("weight").double()
    logits = rows.double().flatten(0, 1) @ weight.T
    if parts.lm_head.bias is not None:
        logits = logits + parts.lm_head.get_parameter("bias").double()
    if parts.logit_cap is not None:
        logits = torch.tanh(logits / parts.logit_cap) * parts.logit_cap
    return logits.log_softmax(dim=-1)


def outcomes(logs: torch.Tensor, tokens: torch.Tensor, tail: bool) -> torch.Tensor:
    """Log-probabilities of some tokens, alone or beside one outcome for all the others."""
    chosen = logs.gather(1, tokens)
    if not tail:
        return chosen.log_softmax(dim=1)
    others = logs.exp().scatter(1, tokens, 0.0).sum(dim=1, keepdim=True).log()
    return torch.cat([chosen, others], dim=1)


def expected_top(
    parts: Decoder, student: torch.Tensor, teacher: torch.Tensor, tail: bool
) -> torch.Tensor:
    logs = log_probabilities(parts, teacher)
    tokens = logs.argsort(dim=1, descending=True)[:, :TOP_K]
    return kl_div(
        outcomes(log_probabilities(parts, student), tokens, tail),
        outcomes(logs, tokens, tail),
        log_target=True,
        reduction="batchmean",
    )


def expected_whole(parts: Decoder, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return kl_div(
        log_probabilities(parts, student),
        log_probabilities(parts, teacher),
        log_target=True,
        reduction="batchmean",
    )


def top(parts: Decoder, student: torch.Tensor, teacher: torch.Tensor, tail: bool) -> torch.Tensor:
    head = OutputHead(parts)
    targets = top_targets(head, teacher, TOP_K, normalised=tail)
    return top_divergence(head, student, targets, tail=tail)


def whole(parts: Decoder, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return vocabulary_divergence(OutputHead(parts), student, teacher)


LOSSES: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]] = {
    "top": (lambda *a: top(*a, tail=False), lambda *a: expected_top(*a, tail=False)),
    "tail": (lambda *a: top(*a, tail=True), lambda *a: expected_top(*a, tail=True)),
    "whole": (whole, expected_whole),
}


@pytest.mark.parametrize("rows_per_block", [1, 4, 1000])
@pytest.mark.parametrize(("bias", "cap"), HEADS)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients_are_those_of_a_plain_softmax(
    loss: str,
    bias: bool,
    cap: float | None,
    rows_per_block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(divergence, "_LOGITS_PER_BLOCK", rows_per_block * VOCABULARY)
    compute, reference = LOSSES[loss]
    parts, teacher = decoder(bias, cap), rows_of(1)
    student = rows_of(2).requires_grad_(True)
    plain = student.detach().double().requires_grad_(True)
    value, expected = compute(parts, student, teacher), reference(parts, plain, teacher)
    (2.0 * value).backward()  # type: ignore[no-untyped-call]
    (2.0 * expected).backward()  # type: ignore[no-untyped-call]
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert value.item() > 0.05
    assert student.grad is not None
    torch.testing.assert_close(student.grad.double(), plain.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_bfloat16_models_have_float32_logits(loss: str) -> None:
    compute, reference = LOSSES[loss]
    parts = decoder(True, None, torch.bfloat16)
    teacher, student = rows_of(1, torch.bfloat16), rows_of(2, torch.bfloat16).requires_grad_(True)
    plain = student.detach().double().requires_grad_(True)
    value, expected = compute(parts, student, teacher), reference(parts, plain, teacher)
    value.backward()  # type: ignore[no-untyped-call]
    expected.backward()  # type: ignore[no-untyped-call]
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert student.grad is not None
    assert student.grad.dtype == torch.bfloat16
    torch.testing.assert_close(student.grad.double(), plain.grad, rtol=8e-3, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_student_that_is_its_teacher_has_no_loss(loss: str) -> None:
    student = rows_of(1).requires_grad_(True)
    value = LOSSES[loss][0](decoder(False, None), student, rows_of(1))
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max().item() < 1e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_the_mean_of_those_of_its_windows(loss: str) -> None:
    compute, parts = LOSSES[loss][0], decoder(False, None)
    student, teacher = rows_of(2), rows_of(1)
    alone = [compute(parts, student[i : i + 1], teacher[i : i + 1]).item() for i in range(2)]
    assert compute(parts, student, teacher).item() == pytest.approx(sum(alone) / 2, rel=1e-6)
    assert alone[0] != pytest.approx(alone[1], rel=1e-2)


def test_a_teacher_without_a_tail_or_less_than_none_has_a_finite_loss() -> None:
    targets = TeacherTargets(
        torch.tensor([[1e-6, -120.0]]), torch.arange(2, dtype=torch.int64)[None]
    )
    student = torch.zeros(1, HIDDEN_SIZE, requires_grad=True)
    value = top_divergence(OutputHead(decoder(False, None)), student, targets, tail=True)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == pytest.approx(torch.tensor(float(VOCABULARY)).log().item(), rel=1e-5)
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("top_k", [1, 3, VOCABULARY])
@pytest.mark.parametrize("rows_per_block", [4, 1000])
def test_targets_are_the_most_probable_tokens(
    top_k: int, rows_per_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "_LOGITS_PER_BLOCK", rows_per_block * VOCABULARY)
    parts = decoder(True, None)
    head = OutputHead(parts)
    targets = top_targets(head, rows_of(1), top_k, normalised=True)
    values, tokens = log_probabilities(parts, rows_of(1)).sort(dim=1, descending=True)
    assert targets.indices.shape == (2, 5, top_k)
    assert targets.indices.dtype == torch.int64
    assert targets.log_probabilities.dtype == torch.float32
    torch.testing.assert_close(
        targets.log_probabilities.flatten(0, 1).double(), values[:, :top_k], rtol=1e-5, atol=1e-6
    )
    if top_k < VOCABULARY:
        assert targets.indices.flatten(0, 1).equal(tokens[:, :top_k])
    shifted = top_targets(head, rows_of(1), top_k, normalised=False)
    assert shifted.indices.equal(targets.indices)
    offsets = shifted.log_probabilities - targets.log_probabilities
    torch.testing.assert_close(offsets, offsets[..., :1].expand_as(offsets), rtol=1e-5, atol=1e-5)


def nearly_equal_head(cap: float | None, spread: float) -> Decoder:
    """A bfloat16 head with logits so near to each other that 8 bits cannot order them."""
    parts = decoder(False, cap, torch.bfloat16)
    first = parts.lm_head.get_parameter("weight")[:1].clone()
    noise = torch.randn(VOCABULARY, HIDDEN_SIZE, generator=torch.Generator().manual_seed(7))
    parts.lm_head.get_parameter("weight").copy_(first.float() + spread * noise)
    return parts


@pytest.mark.parametrize("spread", [0.0, 0.004, 0.03, 1.0])
@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("top_k", [1, 20, VOCABULARY])
def test_bfloat16_targets_are_those_of_the_exact_logits(
    top_k: int, cap: float | None, spread: float
) -> None:
    parts, rows = nearly_equal_head(cap, spread), rows_of(1, torch.bfloat16)
    targets = top_targets(OutputHead(parts), rows, top_k, normalised=False)
    exact = log_probabilities(parts, rows)
    expected = exact.sort(dim=1, descending=True).values[:, :top_k]
    expected = expected - expected[:, :1]
    found = targets.log_probabilities.flatten(0, 1).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    tokens = targets.indices.flatten(0, 1)
    assert all(len(set(row.tolist())) == top_k for row in tokens)
    of_tokens = exact.gather(1, tokens)
    torch.testing.assert_close(of_tokens - of_tokens[:, :1], found, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("spread", "taken"), [(1.0, [19]), (0.01, [19, 76]), (0.004, [19, 76, VOCABULARY])]
)
def test_bfloat16_targets_take_more_logits_only_where_rounding_may_matter(
    spread: float, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    originals = divergence._products, OutputHead.logits

    def products(rows: torch.Tensor, table: torch.Tensor, positions: torch.Tensor) -> Any:
        counts.append(positions.shape[1])
        return originals[0](rows, table, positions)

    def logits(head: OutputHead, rows: torch.Tensor) -> torch.Tensor:
        counts.append(head.vocabulary)
        return originals[1](head, rows)

    monkeypatch.setattr(divergence, "_products", products)
    monkeypatch.setattr(OutputHead, "logits", logits)
    head, rows = OutputHead(nearly_equal_head(None, spread)), rows_of(1, torch.bfloat16)
    top_targets(head, rows, 3, normalised=False)
    assert counts == taken
    counts.clear()
    top_targets(head, rows, 3, normalised=True)
    assert counts == [VOCABULARY]


def test_rows_of_another_dtype_than_the_head_have_float32_logits() -> None:
    parts, rows = decoder(False, None, torch.bfloat16), rows_of(1)
    found = top_targets(OutputHead(parts), rows, 5, normalised=False)
    expected = log_probabilities(parts, rows).topk(5, dim=1).indices
    assert found.indices.flatten(0, 1).equal(expected)


def test_the_error_of_bfloat16_logits_is_bounded() -> None:
    parts, rows = decoder(False, None, torch.bfloat16), rows_of(3, torch.bfloat16).flatten(0, 1)
    head = OutputHead(parts)
    narrow = head.narrow_logits(rows).float()
    weight = parts.lm_head.get_parameter("weight")
    errors = (narrow.double() - rows.double() @ weight.double().T).abs()
    bounds = torch.stack([head.narrow_error(rows, column) for column in narrow.T], dim=1)
    assert (errors <= bounds).all()
    assert errors.max() > 0.1 * bounds.max()


@pytest.mark.parametrize("vocabulary", [640, 641, 703])
@pytest.mark.parametrize("place", ["front", "back", "column", "anywhere"])
def test_the_largest_logits_are_found_wherever_they_are(vocabulary: int, place: str) -> None:
    logits = torch.rand(3, vocabulary, generator=torch.Generator().manual_seed(0))
    width = vocabulary // 64
    spots = {
        "front": slice(0, 4),
        "back": slice(vocabulary - 4, vocabulary),
        "column": slice(3, 3 + 4 * width, width),
        "anywhere": slice(0),
    }
    logits[:, spots[place]] += 1.0
    values, tokens = divergence._largest(logits, 4)
    expected, places = logits.topk(4, dim=1)
    assert values.equal(expected)
    assert tokens.equal(places)
