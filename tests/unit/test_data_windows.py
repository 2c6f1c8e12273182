"""Windows against slow, literal versions of the published protocols."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizer import train_tokenizer
from transformers import PreTrainedTokenizerBase

from lpsteps.data.corpora import join_documents
from lpsteps.data.windows import (
    TokenStream,
    Windows,
    bos_token,
    consecutive_windows,
    random_offset_windows,
    random_windows,
    tokenize,
    windows_table,
)
from lpsteps.errors import LpstepsError

TEXTS = [
    "The cat and the dog",
    "",
    "naïve 12345  3.14\n\ttabs",
    "日本語 😀 and the garden" * 3,
    "a person is seen sitting",
]
NAMES = ["0", "1", "2", "3", "4"]
JOINED = join_documents(TEXTS, NAMES, "\n\n")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer()


@pytest.mark.parametrize("length", [2, 5, 7])
def test_consecutive_windows_are_the_stream_cut_into_pieces(
    tokenizer: PreTrainedTokenizerBase, length: int
) -> None:
    joined = join_documents(TEXTS, NAMES, "\n\n")
    windows = consecutive_windows(tokenize(tokenizer, joined.text, False), joined, length, None)
    stream = tokenizer("\n\n".join(TEXTS), add_special_tokens=False)["input_ids"]
    pieces = [stream[at : at + length] for at in range(0, len(stream) - length + 1, length)]
    assert windows.token_ids.tolist() == pieces
    assert windows.token_ids.dtype == np.int32


def test_documents_and_offsets_lead_back_to_the_texts(tokenizer: PreTrainedTokenizerBase) -> None:
    joined = join_documents(TEXTS, NAMES, "\n\n")
    windows = consecutive_windows(tokenize(tokenizer, joined.text, False), joined, 4, None)
    tokens_of: dict[str, list[int]] = {}
    rows = zip(windows.token_ids, windows.documents, windows.offsets, strict=True)
    for ids, documents, offsets in rows:
        assert offsets[0] == 0
        for document, start, end in zip(documents, offsets, [*offsets[1:], 4], strict=True):
            tokens_of.setdefault(document, []).extend(ids[start:end].tolist())
    assert list(tokens_of) == NAMES
    for name, text in zip(NAMES[:-1], TEXTS[:-1], strict=True):
        assert tokenizer.decode(tokens_of[name]) == text + "\n\n"
    assert TEXTS[-1].startswith(tokenizer.decode(tokens_of[NAMES[-1]]))


def test_bos_comes_once_and_only_when_asked_for(tokenizer: PreTrainedTokenizerBase) -> None:
    joined = join_documents(TEXTS, NAMES, "\n\n")
    plain = tokenize(tokenizer, joined.text, add_bos=False)
    with_bos = tokenize(tokenizer, joined.text, add_bos=True)
    assert with_bos.ids.tolist() == [tokenizer.bos_token_id, *plain.ids.tolist()]
    assert tokenizer.bos_token_id not in plain.ids
    windows = consecutive_windows(with_bos, joined, 6, 2)
    assert windows.documents[0][0] == "0"
    assert windows.token_ids[1].tolist() == with_bos.ids[6:12].tolist()


def test_bos_needs_a_tokenizer_that_has_one() -> None:
    tokenizer = train_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(LpstepsError, match=r"add_bos: true: .* no BOS"):
        tokenize(tokenizer, "a", add_bos=True)
    with pytest.raises(
        LpstepsError, match=r"bos_in_windows: true: .* no BOS token; set it to false"
    ):
        bos_token(tokenizer, "bos_in_windows")


@given(st.integers(1, 200), st.integers(2, 30), st.data())
def test_windows_that_begin_with_bos_hold_all_of_the_text(
    tokens: int, length: int, data: st.DataObject
) -> None:
    joined = join_documents(["x"], ["0"], "")
    stream = TokenStream(np.arange(1000, 1000 + tokens, dtype=np.int32), None)
    available = tokens // (length - 1)
    if available == 0:
        with pytest.raises(LpstepsError, match=f"{tokens} tokens.* 0 windows of {length}"):
            consecutive_windows(stream, joined, length, None, bos=7)
        return
    count = data.draw(st.one_of(st.none(), st.integers(1, available)))
    ids = consecutive_windows(stream, joined, length, count, bos=7).token_ids
    assert ids.shape == (count or available, length)
    assert ids.dtype == np.int32
    assert set(ids[:, 0]) == {7}
    text = ids[:, 1:].flatten().tolist()
    assert text == list(range(1000, 1000 + len(text)))
    with pytest.raises(LpstepsError, match=f"{available} windows of {length}"):
        consecutive_windows(stream, joined, length, available + 1, bos=7)


SAMPLINGS: dict[str, Callable[[PreTrainedTokenizerBase, int, int | None], Windows]] = {
    "consecutive": lambda tokenizer, length, bos: consecutive_windows(
        tokenize(tokenizer, JOINED.text, False), JOINED, length, None, bos
    ),
    "random_offsets": lambda tokenizer, length, bos: random_offset_windows(
        tokenize(tokenizer, JOINED.text, False), JOINED, length, 60, 3, bos
    ),
    "random": lambda tokenizer, length, bos: random_windows(
        lambda row: tokenize(tokenizer, TEXTS[row], False).ids, NAMES, length, 60, 3, bos
    ),
}


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_bos_in_front_of_a_window_takes_the_place_of_one_token_of_text(
    tokenizer: PreTrainedTokenizerBase, sampling: str
) -> None:
    """Behind it are the windows that are shorter by one, drawn alike, and what is said of them."""
    plain = SAMPLINGS[sampling](tokenizer, 6, None)
    windows = SAMPLINGS[sampling](tokenizer, 7, 299)
    assert windows.token_ids.dtype == np.int32
    assert windows.token_ids.tolist() == [[299, *ids] for ids in plain.token_ids.tolist()]
    assert windows.documents == plain.documents
    assert all(offsets[0] == 1 for offsets in windows.offsets)
    assert windows.offsets == [[at + 1 for at in offsets] for offsets in plain.offsets]


def test_as_much_text_as_a_window_with_bos_takes_is_enough() -> None:
    joined = join_documents(["x"], ["0"], "")
    ids = np.arange(10, dtype=np.int32)
    offsets = random_offset_windows(TokenStream(ids, None), joined, 10, 3, 0, bos=99)
    drawn = random_windows(lambda row: ids, ["0"], 10, 3, 0, bos=99)
    assert offsets.token_ids.tolist() == drawn.token_ids.tolist() == [[99, *range(9)]] * 3
    with pytest.raises(LpstepsError, match="length: 11: the text has 10 tokens, not more"):
        random_offset_windows(TokenStream(ids, None), joined, 11, 3, 0, bos=99)
    with pytest.raises(LpstepsError, match="length: 11: no document has more tokens"):
        random_windows(lambda row: ids, ["0"], 11, 3, 0, bos=99)


def test_a_text_that_is_too_short_is_told_with_the_number_of_windows() -> None:
    joined = join_documents(["x"], ["0"], "")
    stream = TokenStream(np.arange(25, dtype=np.int32), None)
    assert len(consecutive_windows(stream, joined, 10, 2).token_ids) == 2
    with pytest.raises(LpstepsError, match=r"count: 3: the text has 25 tokens.* 2 windows of 10"):
        consecutive_windows(stream, joined, 10, 3)
    with pytest.raises(LpstepsError, match=r"count: all: .* 0 windows of 26"):
        consecutive_windows(stream, joined, 26, None)


def _published_random_windows(
    documents: list[list[int]], length: int, count: int, seed: int
) -> list[list[int]]:
    """The published loop, document by document, with the global generator."""
    random.seed(seed)
    windows = []
    for _ in range(count):
        while True:
            i = random.randint(0, len(documents) - 1)
            if len(documents[i]) > length:
                break
        j = random.randint(0, len(documents[i]) - length - 1)
        windows.append(documents[i][j : j + length])
    return windows


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_random_windows_repeat_the_published_draws(seed: int) -> None:
    sizes = random.Random(5).choices(range(1, 40), k=30)
    documents = [list(range(100 * row, 100 * row + size)) for row, size in enumerate(sizes)]

    def encode(row: int) -> npt.NDArray[np.int32]:
        return np.array(documents[row], dtype=np.int32)

    names = [str(row) for row in range(30)]
    windows = random_windows(encode, names, length=20, count=25, seed=seed)
    assert windows.token_ids.tolist() == _published_random_windows(documents, 20, 25, seed)
    assert [int(ids[0]) // 100 for ids in windows.token_ids] == [
        int(document) for (document,) in windows.documents
    ]


def test_random_windows_stop_when_no_document_is_long_enough() -> None:
    with pytest.raises(LpstepsError, match="length: 8: no document has more tokens"):
        random_windows(lambda row: np.arange(8, dtype=np.int32), ["0", "1"], 8, 1, seed=0)


@pytest.mark.parametrize("seed", [0, 3])
def test_random_offsets_start_anywhere_in_the_stream(
    tokenizer: PreTrainedTokenizerBase, seed: int
) -> None:
    joined = join_documents(TEXTS, NAMES, "\n\n")
    stream = tokenize(tokenizer, joined.text, False)
    windows = random_offset_windows(stream, joined, length=7, count=1500, seed=seed)
    tokens = stream.ids.tolist()
    random.seed(seed)
    starts = [random.randint(0, len(tokens) - 7 - 1) for _ in range(1500)]
    assert windows.token_ids.tolist() == [tokens[start : start + 7] for start in starts]
    assert windows.token_ids.dtype == np.int32
    # With replacement, so there are more windows than starts, and all starts come up.
    assert set(starts) == set(range(len(tokens) - 7))
    assert stream.starts is not None
    for start, documents, offsets in zip(starts, windows.documents, windows.offsets, strict=True):
        owners = [
            max(row for row in range(5) if joined.starts[row] <= character)
            for character in stream.starts[start : start + 7].tolist()
        ]
        assert [int(name) for name in documents] == sorted(set(owners))
        assert offsets == [owners.index(owner) for owner in sorted(set(owners))]


def test_random_offsets_need_more_tokens_than_a_window() -> None:
    joined = join_documents(["x"], ["0"], "")
    stream = TokenStream(np.arange(11, dtype=np.int32), None)
    windows = random_offset_windows(stream, joined, 10, 3, seed=0)
    assert windows.token_ids.tolist() == [list(range(10))] * 3
    assert windows.documents == [[], [], []]
    with pytest.raises(LpstepsError, match="length: 11: the text has 11 tokens, not more"):
        random_offset_windows(stream, joined, 11, 3, seed=0)


def test_table_holds_the_windows() -> None:
    windows = Windows(
        np.array([[1, 2], [3, 4]], dtype=np.int32), [["7"], ["7", "9"]], [[0], [0, 1]]
    )
    table = windows_table(windows, {"length": "2"})
    assert table.to_pylist() == [
        {"window": 0, "token_ids": [1, 2], "documents": ["7"], "offsets": [0]},
        {"window": 1, "token_ids": [3, 4], "documents": ["7", "9"], "offsets": [0, 1]},
    ]
    assert str(table.schema.field("token_ids").type.value_type) == "int32"
    assert table.schema.metadata == {b"length": b"2"}
