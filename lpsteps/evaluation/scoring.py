"""Exact log-likelihoods of continuations, with the tokens that requests share computed once.

A multiple-choice question asks for the log-probability of several continuations of one context. The
usual way runs the context again for every choice. Here the inputs that begin alike are merged into
a *pack*: a prefix tree laid out as one sequence. A token of the pack attends to its ancestors in
the tree and to itself, and its position is its depth, so it computes exactly what it would compute
in a sequence of its own; only the rounding differs. The output head runs at the positions that
predict a continuation token and nowhere else.

Packs need a model that takes a mask and positions, and whose attention reaches the whole input.
For any other model a pack holds inputs that are prefixes of one another, which need neither.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from lpsteps.errors import LpstepsError
from lpsteps.evaluation.logits import score_targets
from lpsteps.models.layers import decoder_of
from lpsteps.progress import track

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lpsteps.models.layers import Decoder

_NO_PARENT = -1
_MASKABLE_ATTENTION = {"eager", "sdpa"}


class Request(NamedTuple):
    """How probable is `continuation` after `context`? Both are token ids."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class RequestError(LpstepsError):
    """A request that cannot be scored.

    Attributes:
        index: Its place among the requests.
    """

    def __init__(self, index: int, problem: str) -> None:
        """Say what is wrong with a request."""
        super().__init__(problem)
        self.index = index


class Answer(NamedTuple):
    """Sum of the natural-log probabilities, and whether greedy decoding gives the continuation."""

    log_likelihood: float
    is_greedy: bool


@dataclass
class Pack:
    """Inputs that begin alike, as a prefix tree in depth-first order.

    Attributes:
        tokens: Token id of each node.
        parents: Index of each node's parent, -1 for the root.
        depths: Distance of each node from the root: its position in a sequence of its own.
        paths: For each request in the pack, by its index, the nodes of its input from the root.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, request: int, tokens: Sequence[int], branch_from: Sequence[int]) -> None:
        """Add the input of a request that follows the nodes `branch_from` and then goes its way."""
        path = list(branch_from)
        for depth in range(len(branch_from), len(tokens)):
            self.tokens.append(tokens[depth])
            self.parents.append(path[-1] if path else _NO_PARENT)
            self.depths.append(depth)
            path.append(len(self.tokens) - 1)
        self.paths[request] = path

    def attention(self) -> np.ndarray:
        """Which node (row) attends to which (column): itself and its ancestors; bool [n, n]."""
        allowed = np.eye(len(self), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent != _NO_PARENT:
                allowed[node] |= allowed[parent]
        return allowed


def model_input(request: Request, max_length: int) -> tuple[int, ...]:
    """The tokens that the model reads for a request: all but the last one.

    A request that is too long loses tokens on the left, as in lm-evaluation-harness.
    """
    return (request.context + request.continuation)[-(max_length + 1) :][:-1]


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of leading elements that two sequences share."""
    length = min(len(first), len(second))
    return next((i for i in range(length) if first[i] != second[i]), length)


def build_packs(inputs: Sequence[Sequence[int]], *, branching: bool, limit: int) -> list[Pack]:
    """Group inputs into packs.

    In sorted order an input shares most with its predecessor, so one pass is enough. An input joins
    its predecessor's pack when the shared part is at least a quarter of it: sharing less costs more
    in masked-out attention than it saves.

    Args:
        inputs: Token ids of each request's input, none empty.
        branching: Whether inputs may part ways within a pack. Without it, an input joins only as an
            extension of its predecessor.
        limit: Largest number of tokens in a pack that holds more than one input.

    Returns:
        The packs, longest first. Every input is in exactly one, under its index.
    """
    packs: list[Pack] = []
    previous: Sequence[int] = ()
    path: list[int] = []
    for index in sorted(range(len(inputs)), key=lambda i: (inputs[i], i)):
        tokens = inputs[index]
        shared = common_prefix_length(previous, tokens)
        joins = (
            bool(packs)
            and shared * 4 >= len(tokens)
            and len(packs[-1]) + len(tokens) - shared <= limit
            and (branching or shared == len(previous))
        )
        if not joins:
            packs.append(Pack())
            shared = 0
        packs[-1].add(index, tokens, path[:shared])
        previous, path = tokens, packs[-1].paths[index]
    return sorted(packs, key=len, reverse=True)


def build_batches(packs: Sequence[Pack], batch_tokens: int) -> list[list[Pack]]:
    """Cut packs, longest first, into batches of at most `batch_tokens` tokens, padding included.

    A pack that is longer than that makes a batch of its own. Packs in a batch differ by at most a
    fifth in length, so that little of the work is padding.
    """
    batches: list[list[Pack]] = []
    for pack in packs:
        longest = len(batches[-1][0]) if batches else 0
        if (
            batches
            and (len(batches[-1]) + 1) * longest <= batch_tokens
            and len(pack) * 5 >= longest * 4
        ):
            batches[-1].append(pack)
        else:
            batches.append([pack])
    return batches


def supports_branching(model: PreTrainedModel, decoder: Decoder, longest: int) -> bool:
    """Whether a token's context can be set freely by a mask and positions.

    Args:
        model: The model.
        decoder: Its parts.
        longest: Longest input in tokens; an attention window that holds it limits nothing.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    slides = window is not None and window < longest
    if layer_types is not None:
        slides = slides and "sliding_attention" in layer_types
    # Falcon's ALiBi counts positions from a mask of one row, GPT-Neo's windows by places in a pack.
    counted = getattr(config, "alibi", False) or "local" in getattr(config, "attention_layers", ())
    return (
        config._attn_implementation in _MASKABLE_ATTENTION
        and "position_ids" in inspect.signature(decoder.backbone.forward).parameters
        and set(layer_types or ()) <= {"full_attention", "sliding_attention"}
        and not slides
        and not counted
    )


def _batch_hidden_states(
    model: PreTrainedModel, decoder: Decoder, batch: Sequence[Pack], *, branching: bool
) -> torch.Tensor:
    """Output of the final norm for a batch of packs, [packs, longest, hidden size]."""
    longest = max(len(pack) for pack in batch)
    tokens = np.zeros((len(batch), longest), dtype=np.int64)
    for row, pack in enumerate(batch):
        tokens[row, : len(pack)] = pack.tokens
    arguments = {"input_ids": torch.from_numpy(tokens).to(model.device)}
    if branching:
        positions = np.zeros_like(tokens)
        allowed = np.zeros((len(batch), 1, longest, longest), dtype=bool)
        for row, pack in enumerate(batch):
            positions[row, : len(pack)] = pack.depths
            allowed[row, 0, : len(pack), : len(pack)] = pack.attention()
        mask = torch.zeros(allowed.shape, dtype=model.dtype)
        mask.masked_fill_(torch.from_numpy(~allowed), torch.finfo(model.dtype).min)
        arguments["position_ids"] = torch.from_numpy(positions).to(model.device)
        arguments["attention_mask"] = mask.to(model.device)
    # Without branches, causal attention and padding on the right need no mask.
    hidden: torch.Tensor = decoder.backbone(**arguments, use_cache=False).last_hidden_state
    return hidden


@torch.inference_mode()
def score_requests(
    model: PreTrainedModel,
    requests: Sequence[Request],
    *,
    max_length: int,
    batch_tokens: int,
    branching: bool | None = None,
) -> list[Answer]:
    """Score continuations with a decoder-only model.

    Args:
        model: The model, in evaluation mode.
        requests: What to score; contexts and continuations are not empty.
        max_length: Longest input that the model takes, in tokens.
        batch_tokens: Most tokens in one forward pass, padding included; a longer pack runs alone.
        branching: Whether packs may branch; None asks the model.

    Returns:
        One answer per request, in order.

    Raises:
        RequestError: An empty context or continuation, or a continuation above `max_length`.
        LpstepsError: A log-probability is not finite: the harness would take it for the best one.
    """
    for index, (context, continuation) in enumerate(requests):
        if not context or not 0 < len(continuation) <= max_length:
            raise RequestError(
                index,
                f"{len(context)} tokens of a context and {len(continuation)} of an answer: both "
                f"must have some, the answer at most {max_length}; the tokenizer may merge them",
            )
    if not requests:
        return []
    decoder = decoder_of(model)
    inputs = [model_input(request, max_length) for request in requests]
    longest = max(map(len, inputs))
    if branching is None:
        branching = supports_branching(model, decoder, longest)
    # An input above `batch_tokens` runs anyway, so its pack may have room for its branches.
    packs = build_packs(inputs, branching=branching, limit=max(batch_tokens, 2 * longest))
    answers: dict[int, Answer] = {}
    for batch in track(build_batches(packs, batch_tokens), "scoring"):
        hidden = _batch_hidden_states(model, decoder, batch, branching=branching)
        scored = [(row, index) for row, pack in enumerate(batch) for index in pack.paths]
        lengths = [len(requests[index].continuation) for _, index in scored]
        nodes = [
            row * hidden.shape[1] + node
            for (row, index), length in zip(scored, lengths, strict=True)
            for node in batch[row].paths[index][-length:]
        ]
        targets = [token for _, index in scored for token in requests[index].continuation]
        log_probabilities, greedy = score_targets(
            decoder,
            hidden.flatten(0, 1)[torch.tensor(nodes, device=hidden.device)],
            torch.tensor(targets, device=hidden.device),
        )
        parts = zip(
            torch.split(log_probabilities, lengths), torch.split(greedy, lengths), strict=True
        )
        for (_, index), (logs, matches) in zip(scored, parts, strict=True):
            answer = Answer(float(logs.sum()), bool(matches.all()))
            if not math.isfinite(answer.log_likelihood):
                raise LpstepsError(
                    "the log-probability of an answer is not finite; set dtype: float32"
                )
            answers[index] = answer
    return [answers[index] for index in range(len(requests))]
