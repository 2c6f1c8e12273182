"""Windows against slow, literal versions of the published protocols."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import pytest
from tiny_tokenizer import train_tokenizer
from transformers import PreTrainedTokenizerBase

from lpsteps.data.corpora import join_documents
from lpsteps.data.windows import (
    TokenStream,
    Windows,
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
    with pytest.raises(LpstepsError, match="no BOS"):
        tokenize(tokenizer, "a", add_bos=True)


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
