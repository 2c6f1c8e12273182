from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM
from tiny_tokenizer import train_tokenizer

from lpsteps.errors import LpstepsError
from lpsteps.evaluation.scoring import (
    Answer,
    Request,
    RequestError,
    build_batches,
    build_packs,
    score_requests,
    supports_branching,
)
from lpsteps.models.layers import decoder_of

FEW_TOKENS = st.integers(min_value=0, max_value=2)
INPUTS = st.lists(st.lists(FEW_TOKENS, min_size=1, max_size=8).map(tuple), min_size=1, max_size=12)


def random_requests(seed: int = 0) -> list[Request]:
    """Questions as benchmarks have them: shared contexts, shared continuations, lone ones."""
    chance = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(chance.randrange(2, 128) for _ in range(chance.randint(low, high)))

    requests = []
    for _ in range(6):
        context = tokens(1, 14)
        requests += [Request(context, tokens(1, 6)) for _ in range(4)]
        requests += [Request(context, tokens(1, 1)) for _ in range(3)]
    beginning, ending = tokens(8, 8), tokens(5, 5)
    requests += [Request(beginning + tokens(2, 2), ending) for _ in range(4)]
    # What an empty context becomes: the beginning-of-sequence token alone.
    requests += [Request((1,), tokens(1, 5)) for _ in range(3)]
    requests += [requests[0], Request(requests[0].context, (*requests[0].continuation, 7))]
    chance.shuffle(requests)
    return requests


def harness_answers(
    model: Any, requests: Sequence[Request], **options: Any
) -> list[tuple[float, bool]]:
    harness = HFLM(pretrained=model, tokenizer=train_tokenizer(), batch_size=3, **options)
    encoded = [(("", ""), list(context), list(target)) for context, target in requests]
    return harness._loglikelihood_tokens(encoded, disable_tqdm=True)


def assert_same(answers: Sequence[Answer], expected: Sequence[tuple[float, bool]]) -> None:
    np.testing.assert_allclose(
        [answer.log_likelihood for answer in answers], [log for log, _ in expected], atol=1e-4
    )
    assert [answer.is_greedy for answer in answers] == [greedy for _, greedy in expected]


@pytest.mark.parametrize("batch_tokens", [16, 512])
def test_answers_equal_those_of_the_harness(
    tiny_model: Any, family: str, batch_tokens: int
) -> None:
    model = tiny_model(family)
    requests = random_requests()
    answers = score_requests(model, requests, max_length=128, batch_tokens=batch_tokens)
    assert_same(answers, harness_answers(model, requests))


def test_greedy_continuations_are_recognised(tiny_llama: Any) -> None:
    context = [5, 9, 3]
    greedy = list(context)
    import torch

    for _ in range(4):
        greedy.append(int(tiny_llama(torch.tensor([greedy])).logits[0, -1].argmax()))
    other = (*greedy[3:6], (greedy[6] + 1) % 128)
    requests = [Request(tuple(context), tuple(greedy[3:])), Request(tuple(context), other)]
    answers = score_requests(tiny_llama, requests, max_length=128, batch_tokens=64)
    assert [answer.is_greedy for answer in answers] == [True, False]


def test_packing_changes_nothing_but_the_work(tiny_llama: Any) -> None:
    requests = random_requests(seed=1)
    packed, plain = (
        score_requests(tiny_llama, requests, max_length=128, batch_tokens=256, branching=branching)
        for branching in (True, False)
    )
    assert_same(packed, plain)


def test_too_long_requests_lose_their_beginning(tiny_llama: Any) -> None:
    requests = [
        Request(tuple(range(2, 30)), (3, 4)),
        Request(tuple(range(2, 30)), (5, 4, 3)),
        Request((9, 8), tuple(range(40, 56))),
        Request((9,), (8,)),
    ]
    answers = score_requests(tiny_llama, requests, max_length=16, batch_tokens=64)
    assert_same(answers, harness_answers(tiny_llama, requests, max_length=16))


@pytest.mark.parametrize(
    "request_", [Request((), (1,)), Request((1,), ()), Request((1,), (2,) * 9)]
)
def test_requests_that_cannot_be_scored_are_refused(tiny_llama: Any, request_: Request) -> None:
    fine = Request((1,), (2,))
    with pytest.raises(RequestError, match="both must have some, the answer at most 8") as caught:
        score_requests(tiny_llama, [fine, request_], max_length=8, batch_tokens=64)
    assert caught.value.index == 1 and isinstance(caught.value, LpstepsError)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_answer_that_is_no_number_is_not_the_best_one(tiny_llama: Any, value: float) -> None:
    """The harness takes the largest by `argmax`, which finds the first NaN."""
    with torch.no_grad():
        tiny_llama.lm_head.weight[7] = value
    with pytest.raises(LpstepsError, match="is not finite; set dtype: float32"):
        score_requests(tiny_llama, random_requests(), max_length=128, batch_tokens=64)


def test_no_requests_no_answers(tiny_llama: Any) -> None:
    assert score_requests(tiny_llama, [], max_length=8, batch_tokens=64) == []


@pytest.mark.parametrize(
    ("family", "options", "expected"),
    [
        ("llama", {}, True),
        ("gpt_neox", {}, True),
        ("opt", {}, True),
        ("mistral", {}, False),
        ("mistral", {"sliding_window": 20}, True),
        ("mistral", {"sliding_window": None}, True),
        ("qwen2", {}, False),
        ("qwen2", {"use_sliding_window": False}, True),
        ("gemma2", {}, False),
        ("gemma2", {"sliding_window": 64}, True),
        # Settings of Falcon and of GPT-Neo, whose layers count by places in the input.
        ("llama", {"alibi": True}, False),
        ("llama", {"attention_layers": ["global", "local"] * 3}, False),
        ("llama", {"attention_layers": ["global"] * 6}, True),
    ],
)
def test_branches_need_attention_over_the_whole_input(
    tiny_model: Any, family: str, options: dict[str, Any], expected: bool
) -> None:
    model = tiny_model(family, **options)
    assert supports_branching(model, decoder_of(model), longest=20) is expected


def test_branches_need_attention_that_takes_a_mask(tiny_llama: Any) -> None:
    model = copy.deepcopy(tiny_llama)
    model.config._attn_implementation = "flash_attention_2"
    assert not supports_branching(model, decoder_of(model), longest=20)


@given(inputs=INPUTS, branching=st.booleans(), limit=st.integers(min_value=1, max_value=30))
def test_packs_hold_every_input_as_a_path(
    inputs: list[tuple[int, ...]], branching: bool, limit: int
) -> None:
    packs = build_packs(inputs, branching=branching, limit=limit)
    indices = [index for pack in packs for index in pack.paths]
    assert sorted(indices) == list(range(len(inputs)))
    assert [len(pack) for pack in packs] == sorted(map(len, packs), reverse=True)
    for pack in packs:
        assert len(pack) <= limit or len({inputs[index] for index in pack.paths}) == 1
        attention = pack.attention()
        for index, path in pack.paths.items():
            assert tuple(pack.tokens[node] for node in path) == inputs[index]
            assert [pack.depths[node] for node in path] == list(range(len(path)))
            for depth, node in enumerate(path):
                assert np.flatnonzero(attention[node]).tolist() == sorted(path[: depth + 1])
        if not branching:
            assert pack.depths == list(range(len(pack)))
            np.testing.assert_array_equal(attention, np.tri(len(pack), dtype=bool))


def test_inputs_that_begin_alike_share_tokens() -> None:
    shared = tuple(range(20))
    inputs = [(*shared, choice, choice) for choice in (50, 51, 52, 53)]
    assert [len(pack) for pack in build_packs(inputs, branching=True, limit=100)] == [28]
    assert [len(pack) for pack in build_packs(inputs, branching=False, limit=100)] == [22] * 4
    # One-token continuations of one context are one and the same input.
    assert [len(pack) for pack in build_packs([shared] * 4, branching=False, limit=100)] == [20]


def test_inputs_that_share_little_stay_apart() -> None:
    inputs = [(1, *range(10, 20)), (1, *range(30, 40))]
    assert len(build_packs(inputs, branching=True, limit=100)) == 2


@given(inputs=INPUTS, batch_tokens=st.integers(min_value=1, max_value=40))
def test_batches_keep_to_their_size(inputs: list[tuple[int, ...]], batch_tokens: int) -> None:
    packs = build_packs(inputs, branching=True, limit=10)
    batches = build_batches(packs, batch_tokens)
    assert [pack for batch in batches for pack in batch] == packs
    for batch in batches:
        lengths = [len(pack) for pack in batch]
        assert len(batch) == 1 or len(batch) * max(lengths) <= batch_tokens
        assert min(lengths) >= 0.8 * max(lengths)


def test_packs_of_equal_length_share_a_batch() -> None:
    packs = build_packs([(i, i) for i in range(10)], branching=True, limit=10)
    assert [len(batch) for batch in build_batches(packs, batch_tokens=8)] == [4, 4, 2]
