"""How far the student's next-token distribution is from the teacher's.

All losses are the Kullback-Leibler divergence ``KL(teacher || student)`` in nats, summed over the
outcomes and averaged over the positions, at temperature 1, from float32 logits whatever the dtype
of the model. The head is frozen, so each loss computes its gradient for the student's rows at once,
a block of positions at a time, and keeps nothing else for the backward pass: logits take memory
for one block, whatever the vocabulary. A head in bfloat16 is copied to float32 besides, in parts
or, on a processor, as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import embedding_bag, linear

from lpsteps.errors import LpstepsError
from lpsteps.models.layers import Decoder

# Logits held at a time: 128 MiB of float32, whatever the size of the vocabulary.
_LOGITS_PER_BLOCK = 1 << 25
# The largest of the logits are sought among the columns whose maxima are largest.
_COLUMN_HEIGHT = 64

# One block of positions: its divergences, float32 [rows], and the gradient of their sum for the
# student's rows, float32 [rows, hidden_size], where that is asked for.
_Block = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True, eq=False)
class TeacherTargets:
    """The teacher's most probable tokens, per position.

    Attributes:
        log_probabilities: Natural-log probabilities, normalised over the whole vocabulary, float32
            ``[..., K]``, descending. They may be off by a constant per position where no reader
            needs to know what lies outside the K.
        indices: Token ids, int64 ``[..., K]``.
    """

    log_probabilities: torch.Tensor
    indices: torch.Tensor


@torch.no_grad()
def top_targets(
    head: OutputHead, rows: torch.Tensor, top_k: int, *, normalised: bool
) -> TeacherTargets:
    """Return the most probable tokens of each position.

    Args:
        head: The teacher's.
        rows: Its normalised hidden states, ``[..., hidden_size]``.
        top_k: How many, at most the size of the vocabulary.
        normalised: Whether the probabilities are those in the whole vocabulary. They cost a third
            as much again as the logits, and a loss over the K alone does without; in bfloat16 on a
            processor it does without most of the float32 products too.
    """
    flat = rows.flatten(0, -2)
    shape = (len(flat), top_k)
    log_probabilities = torch.empty(shape, dtype=torch.float32, device=rows.device)
    indices = torch.empty(shape, dtype=torch.int64, device=rows.device)
    for block in _blocks(len(flat), head.vocabulary):
        if not normalised and head.has_narrow_product_of(flat):
            log_probabilities[block], indices[block] = _screened(head, flat[block], top_k)
            continue
        logits = head.logits(flat[block])
        values, indices[block] = _largest(logits, top_k)
        highest = values[:, :1].clone()
        log_probabilities[block] = values.sub_(highest)
        if normalised:
            normaliser = logits.sub_(highest).exp_().sum(dim=1, keepdim=True).log_()
            log_probabilities[block] -= normaliser
    shape = (*rows.shape[:-1], top_k)
    return TeacherTargets(log_probabilities.view(shape), indices.view(shape))


def top_divergence(
    head: OutputHead, rows: torch.Tensor, targets: TeacherTargets, *, tail: bool
) -> torch.Tensor:
    """Return the divergence over the teacher's most probable tokens.

    Without a tail both distributions are renormalised over these K tokens, as in LinearPatch
    (arXiv 2505.24680), and only their K rows of the head are read. With a tail all other tokens
    together are one more outcome, which takes the logits of the whole vocabulary.

    Args:
        head: The student's.
        rows: Its normalised hidden states, ``[..., hidden_size]``.
        targets: The teacher's tokens at the same positions, on the same device; normalised where
            there is a tail.
        tail: Whether there is an outcome for the other tokens.

    Returns:
        A scalar, float32, that propagates a gradient to the rows.
    """
    log_teacher = targets.log_probabilities.flatten(0, -2)
    indices = targets.indices.flatten(0, -2)

    def chosen(rows: torch.Tensor, block: slice, with_gradient: bool) -> _Block:
        table, positions = head.rows_of(indices[block])
        logits = head.finish(_products(rows, table, positions), indices[block])
        log_student = logits.log_softmax(dim=1)
        renormalised = log_teacher[block].log_softmax(dim=1)
        teacher = renormalised.exp()
        divergences = (teacher * (renormalised - log_student)).sum(dim=1)
        if not with_gradient:
            return divergences, None
        residuals = head.through_cap(log_student.exp_().sub_(teacher), logits)
        return divergences, embedding_bag(
            positions, table, per_sample_weights=residuals, mode="sum"
        )

    def chosen_and_tail(rows: torch.Tensor, block: slice, with_gradient: bool) -> _Block:
        ids = indices[block]
        logits = head.logits(rows)
        of_chosen = logits.gather(1, ids)
        others = logits.scatter(1, ids, -math.inf)
        normaliser_of_others = others.logsumexp(dim=1, keepdim=True)
        normaliser = torch.logaddexp(of_chosen.logsumexp(dim=1, keepdim=True), normaliser_of_others)
        log_student = of_chosen - normaliser
        log_student_tail = normaliser_of_others - normaliser
        teacher = log_teacher[block].exp()
        teacher_tail = (1.0 - teacher.sum(dim=1, keepdim=True)).clamp_(min=0.0)
        divergences = (teacher * (log_teacher[block] - log_student)).sum(dim=1, keepdim=True)
        # xlogy, because rounding may leave nothing in the tail.
        divergences += torch.xlogy(teacher_tail, teacher_tail) - teacher_tail * log_student_tail
        if not with_gradient:
            return divergences.squeeze(1), None
        # The other tokens share the tail's residual in proportion to their probabilities.
        residuals = others.sub_(normaliser_of_others).exp_()
        residuals *= log_student_tail.exp() - teacher_tail
        residuals.scatter_(1, ids, log_student.exp() - teacher)
        return divergences.squeeze(1), head.pull_back(head.through_cap(residuals, logits))

    if tail:
        return _mean(rows, chosen_and_tail, _blocks(rows[..., 0].numel(), head.vocabulary))
    return _mean(rows, chosen, _blocks(rows[..., 0].numel(), indices.shape[1]))


def vocabulary_divergence(
    head: OutputHead, rows: torch.Tensor, teacher_rows: torch.Tensor
) -> torch.Tensor:
    """Return the divergence over the whole vocabulary.

    Args:
        head: That of both models.
        rows: The student's normalised hidden states, ``[..., hidden_size]``.
        teacher_rows: The teacher's, of the same shape.

    Returns:
        A scalar, float32, that propagates a gradient to the student's rows.
    """
    flat_teacher = teacher_rows.flatten(0, -2)

    def whole(rows: torch.Tensor, block: slice, with_gradient: bool) -> _Block:
        log_teacher = head.logits(flat_teacher[block]).log_softmax(dim=1)
        logits = head.logits(rows)
        log_student = logits.log_softmax(dim=1)
        teacher = log_teacher.exp()
        divergences = (teacher * log_teacher.sub_(log_student)).sum(dim=1)
        if not with_gradient:
            return divergences, None
        residuals = head.through_cap(log_student.exp_().sub_(teacher), logits)
        return divergences, head.pull_back(residuals)

    return _mean(rows, whole, _blocks(rows[..., 0].numel(), head.vocabulary))


class OutputHead:
    """The output head of a model, frozen, with float32 results.

    Attributes:
        vocabulary: Number of tokens.
    """

    def __init__(self, decoder: Decoder) -> None:
        """Take over the head of a model; its weight is no copy.

        Raises:
            LpstepsError: The head is more than a matrix (Baichuan2 normalises its rows).
        """
        if not isinstance(decoder.lm_head, nn.Linear):
            raise LpstepsError(
                f"distillation: the head is a {type(decoder.lm_head).__name__}, not a plain "
                "matrix; choose a recovery that is not distilled"
            )
        bias = getattr(decoder.lm_head, "bias", None)
        self._stored = decoder.lm_head.get_parameter("weight").detach()
        self._bias: torch.Tensor | None = None if bias is None else bias.detach().float()
        self._cap = decoder.logit_cap
        self._kept = torch.empty(0, dtype=torch.uint8, device=self._stored.device)
        self.vocabulary = len(self._stored)

    def has_narrow_product_of(self, rows: torch.Tensor) -> bool:
        """Whether there are :meth:`narrow_logits` of rows."""
        dtypes = {self._stored.dtype, rows.dtype}
        return dtypes == {torch.bfloat16} and not rows.is_cuda and self._bias is None

    @cached_property
    def _weight(self) -> torch.Tensor:
        # A GPU multiplies bfloat16 into float32 as it is; a processor has no such product.
        return self._stored if self._stored.is_cuda else self._stored.float()

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of rows ``[rows, hidden_size]``, over the whole vocabulary.

        They are written over by the next call.
        """
        if self._weight.dtype != torch.float32:
            return self._capped(self._product(rows, self._weight.T, self._bias))
        logits = self._kept_memory(len(rows), torch.float32)
        torch.mm(rows.float(), self._weight.T, out=logits)
        return self._capped(logits if self._bias is None else logits.add_(self._bias))

    def narrow_logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits in front of the cap in bfloat16, for a head without a bias.

        On a processor that is made for bfloat16 they cost a fraction of the float32 ones. Like
        those, they are written over by the next call.
        """
        logits = self._kept_memory(len(rows), torch.bfloat16)
        torch.mm(rows, self._stored.T, out=logits)
        return logits

    def narrow_error(self, rows: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return how far the exact ones may be from the logits of :meth:`narrow_logits`.

        Args:
            rows: Of the product, ``[rows, hidden_size]``.
            logits: One for each row, in front of the cap, float32 ``[rows]``.
        """
        # A sum of n float32 products is off by at most n roundings of the largest that it can be;
        # then the result is rounded to bfloat16.
        of_sums = rows.shape[1] * torch.finfo(torch.float32).eps * self._longest
        largest: torch.Tensor = torch.finfo(torch.bfloat16).eps * logits.abs()
        return largest.add_(rows.norm(dim=1, dtype=torch.float32), alpha=of_sums)

    @cached_property
    def _longest(self) -> float:
        """Length of the longest row of the weight."""
        return float(self._stored.norm(dim=1, dtype=torch.float32).max())

    def pull_back(self, residuals: torch.Tensor) -> torch.Tensor:
        """Return the gradient for the rows from that for the logits in front of the cap."""
        return self._product(residuals, self._weight, None)

    def rows_of(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rows of the head, float32, and where each token's row is among them.

        Args:
            indices: Token ids, any shape.
        """
        if self._stored.dtype == torch.float32:
            return self._stored, indices
        used, positions = torch.unique(indices, return_inverse=True)
        return self._stored[used].float(), positions

    def finish(self, products: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Return the logits of some tokens from the products of rows and head."""
        if self._bias is not None:
            products = products + self._bias[indices]
        return self._capped(products)

    def through_cap(self, residuals: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the gradient for the logits in front of the cap from that for the capped ones."""
        if self._cap is None:
            return residuals
        return residuals * (1.0 - (logits / self._cap) ** 2)

    def _kept_memory(self, rows: int, dtype: torch.dtype) -> torch.Tensor:
        """Return memory for logits that is kept: fresh pages cost a fifth of a float32 product."""
        size = rows * self.vocabulary * dtype.itemsize
        if len(self._kept) < size:
            self._kept = self._kept.new_empty(size)
        return self._kept[:size].view(dtype).view(rows, self.vocabulary)

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self._cap is None else (logits / self._cap).tanh_().mul_(self._cap)

    @staticmethod
    def _product(
        rows: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if matrix.dtype == torch.float32:
            return linear(rows.float(), matrix.T, bias)
        product = torch.mm(rows.to(matrix.dtype), matrix, out_dtype=torch.float32)
        return product if bias is None else product + bias


class _KnownGradient(torch.autograd.Function):
    """A loss whose gradient for the rows has been computed with it."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, loss: torch.Tensor, gradient: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *factors: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * factors[0], None, None


def _mean(
    rows: torch.Tensor,
    divergences: Callable[[torch.Tensor, slice, bool], _Block],
    blocks: Iterator[slice],
) -> torch.Tensor:
    """Average over positions and attach the gradient."""
    flat = rows.detach().flatten(0, -2)
    with_gradient = rows.requires_grad and torch.is_grad_enabled()
    gradient = torch.empty_like(flat) if with_gradient else None
    total = torch.zeros((), dtype=torch.float32, device=rows.device)
    with torch.no_grad():
        for block in blocks:
            values, of_rows = divergences(flat[block].float(), block, with_gradient)
            total += values.sum()
            if gradient is not None and of_rows is not None:
                gradient[block] = of_rows.div_(len(flat))
        loss = total / len(flat)
    if gradient is None:
        return loss
    return cast(
        torch.Tensor,
        _KnownGradient.apply(  # type: ignore[no-untyped-call]
            rows, loss, gradient.view(rows.shape)
        ),
    )


def _blocks(rows: int, outcomes: int) -> Iterator[slice]:
    """Cut rows into the fewest blocks of about the same size that keep to the memory."""
    count = math.ceil(rows * outcomes / _LOGITS_PER_BLOCK)
    size = math.ceil(rows / count)
    for start in range(0, rows, size):
        yield slice(start, start + size)


def _products(rows: torch.Tensor, table: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the product of each row with its own K rows of a table, float32 ``[rows, K]``.

    This is the gradient of a weighted sum of the table's rows for its weights. Torch computes it
    without gathering them, three times faster on a processor than a product with gathered rows.
    """
    weights = torch.zeros(positions.shape, device=rows.device, requires_grad=True)
    with torch.enable_grad():
        sums = embedding_bag(positions, table, per_sample_weights=weights, mode="sum")
    return torch.autograd.grad(sums, weights, rows)[0]


def _screened(
    head: OutputHead, rows: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest logits of each row, relative to the largest, and their tokens, descending.

    Some more than are asked for are taken by their bfloat16 values, and the float32 ones of these
    alone decide. Where rounding may have left out one that belongs to the largest, four times as
    many are taken, and then all.

    Args:
        head: Of the teacher.
        rows: ``[rows, hidden_size]``, for which the head has a narrow product.
        count: How many to return.
    """
    values = torch.empty((len(rows), count), dtype=torch.float32)
    tokens = torch.empty((len(rows), count), dtype=torch.int64)
    narrow = head.narrow_logits(rows)
    left = torch.arange(len(rows))
    for candidates in (count + max(count // 4, 16), 4 * count + 64):
        if candidates >= head.vocabulary or not len(left):
            break
        seen, of_candidates = _largest(narrow, candidates)
        table, positions = head.rows_of(of_candidates)
        products, order = _products(rows.float(), table, positions).topk(count, dim=1)
        tokens[left] = of_candidates.gather(1, order)
        values[left] = head.finish(products, tokens[left])
        last = seen[:, -1].float()
        doubtful = products[:, -1] < last + head.narrow_error(rows, last)
        left, rows, narrow = left[doubtful], rows[doubtful], narrow[doubtful]
    if len(left):
        values[left], tokens[left] = _largest(head.logits(rows), count)
    return values - values[:, :1], tokens


def _largest(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest logits of each row and their places, descending.

    The columns of a matrix of 64 rows that holds all logits are compared by their maxima first:
    the largest ``count`` logits lie in ``count`` of the columns.
    """
    vocabulary = logits.shape[1]
    width = vocabulary // _COLUMN_HEIGHT
    if width <= 2 * count:
        values, places = logits.topk(count, dim=1)
        return values, places
    whole = width * _COLUMN_HEIGHT
    matrix = logits[:, :whole].view(-1, _COLUMN_HEIGHT, width)
    columns = matrix.amax(dim=1).topk(count, dim=1, sorted=False).indices
    candidates = matrix.gather(2, columns[:, None].expand(-1, _COLUMN_HEIGHT, -1)).flatten(1)
    # What does not fill a row of the matrix is always a candidate.
    values, order = torch.cat([candidates, logits[:, whole:]], dim=1).topk(count, dim=1)
    in_matrix = order // count * width + columns.gather(1, order % count)
    behind = order - candidates.shape[1] + whole
    return values, torch.where(order < candidates.shape[1], in_matrix, behind)
