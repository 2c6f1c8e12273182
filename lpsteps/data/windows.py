"""Windows: the fixed-length token sequences that models are measured and repairs are trained on.

Three ways to cut them, all from the code behind the paper: the first two for its perplexity tables,
the third for the text that it calibrates and trains patches on (from C4, the second):

- consecutive (WikiText-2, PTB): all documents are joined by blank lines and tokenised once, then
  cut into windows that do not overlap; the incomplete tail is dropped.
- random (C4): one random window out of each of ``count`` randomly drawn, long enough documents.
- random offsets (WikiText-2): ``count`` windows that start anywhere in the joined text, drawn with
  replacement, so that they overlap.

That code gives no window a BOS token of its own. A model that cannot do without, as Gemma, gets
windows of the same length, with that token in front and one token of text less.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lpsteps.data.corpora import JoinedText
from lpsteps.errors import LpstepsError
from lpsteps.progress import track

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

TokenIds = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Windows:
    """Token windows and the documents that they were cut from.

    Attributes:
        token_ids: Token ids [windows, length], int32.
        documents: For each window the names of the documents in it, in their order; empty lists
            when the tokenizer cannot tell where its tokens come from.
        offsets: For each window and document the position in the window of the document's first
            token, so each list starts with 0, or with 1 behind a BOS token of the window's own.
    """

    token_ids: TokenIds
    documents: list[list[str]]
    offsets: list[list[int]]


@dataclass(frozen=True)
class TokenStream:
    """A tokenised text.

    Attributes:
        ids: Token ids [tokens], int32.
        starts: Position in the text of each token's first character [tokens], int64, or None when
            the tokenizer does not tell.
    """

    ids: TokenIds
    starts: npt.NDArray[np.int64] | None

    def part(self, span: slice) -> TokenStream:
        """Return the tokens of a span; their starts are positions in the whole text."""
        return TokenStream(self.ids[span], None if self.starts is None else self.starts[span])


def bos_token(tokenizer: PreTrainedTokenizerBase, key: str) -> int:
    """Return the id of a tokenizer's BOS token.

    Args:
        tokenizer: The model's tokenizer.
        key: The key of the model's entry that asks for the token, for the message.

    Raises:
        LpstepsError: The tokenizer has none.
    """
    if tokenizer.bos_token_id is None:
        raise LpstepsError(
            f"{key}: true: the tokenizer of this model has no BOS token; set it to false"
        )
    return int(tokenizer.bos_token_id)


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str, add_bos: bool) -> TokenStream:
    """Tokenise a text of any length in one piece.

    Args:
        tokenizer: The model's tokenizer. Whatever it would add by itself is ignored.
        text: The text.
        add_bos: Put one BOS token in front.

    Raises:
        LpstepsError: ``add_bos`` is set but the tokenizer has no BOS token.
    """
    # `verbose` would only warn that the text is longer than the model's context.
    encoding = tokenizer(
        text,
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=tokenizer.is_fast,
        verbose=False,
    )
    ids = encoding["input_ids"]
    starts = [start for start, _ in encoding["offset_mapping"]] if tokenizer.is_fast else None
    if add_bos:
        ids = [bos_token(tokenizer, "add_bos"), *ids]
        starts = None if starts is None else [0, *starts]
    return TokenStream(
        np.asarray(ids, dtype=np.int32),
        None if starts is None else np.asarray(starts, dtype=np.int64),
    )


def consecutive_windows(
    stream: TokenStream,
    joined: JoinedText,
    length: int,
    count: int | None,
    bos: int | None = None,
) -> Windows:
    """Cut a token stream into windows that do not overlap.

    Args:
        stream: The tokenised ``joined.text``.
        joined: The text with its documents.
        length: Tokens per window, ``bos`` included.
        count: How many windows to keep from the start, None for all.
        bos: Token to put in front of each window, None for none.

    Raises:
        LpstepsError: There are fewer than ``count`` windows, or none at all.
    """
    text = _text_tokens(length, bos)
    available = len(stream.ids) // text
    if available < (count or 1):
        raise LpstepsError(
            f"count: {count or 'all'}: the text has {len(stream.ids)} tokens, which make "
            f"{available} windows of {length}; ask for fewer or shorter ones"
        )
    kept = available if count is None else count
    return _behind(bos, _windows_at(stream, joined, text, np.arange(kept) * text))


def random_offset_windows(
    stream: TokenStream,
    joined: JoinedText,
    length: int,
    count: int,
    seed: int,
    bos: int | None = None,
) -> Windows:
    """Draw windows at random offsets of a token stream, with replacement.

    The first token of each is drawn from ``0..tokens - length - 1`` by Python's own generator, as
    the calibration loaders of GPTQ and of the code that followed it do; with ``bos``, ``length``
    there is one less, as the window has one token of text less.

    Args:
        stream: The tokenised ``joined.text``.
        joined: The text with its documents.
        length: Tokens per window, ``bos`` included.
        count: Number of windows.
        seed: Seed of the generator.
        bos: Token to put in front of each window, None for none.

    Raises:
        LpstepsError: The text does not have more tokens than a window takes of it.
    """
    text = _text_tokens(length, bos)
    tokens = len(stream.ids)
    if tokens <= text:
        raise LpstepsError(
            f"length: {length}: the text has {tokens} tokens, not more than that; ask for shorter "
            "windows"
        )
    generator = random.Random(seed)
    offsets = [generator.randint(0, tokens - text - 1) for _ in range(count)]
    return _behind(bos, _windows_at(stream, joined, text, np.array(offsets)))


def _text_tokens(length: int, bos: int | None) -> int:
    """Return how many tokens of a window are text."""
    return length if bos is None else length - 1


def _behind(bos: int | None, windows: Windows) -> Windows:
    """Return windows with a token in front of each, or as they are where it is None."""
    if bos is None:
        return windows
    return Windows(
        np.insert(windows.token_ids, 0, bos, axis=1),
        windows.documents,
        [[offset + 1 for offset in offsets] for offsets in windows.offsets],
    )


def _windows_at(
    stream: TokenStream, joined: JoinedText, length: int, offsets: npt.NDArray[np.int64]
) -> Windows:
    """Return the windows that start at the given tokens of the stream, with their documents."""
    positions = offsets[:, None] + np.arange(length)
    token_ids = stream.ids[positions]
    if stream.starts is None:
        return Windows(token_ids, [[] for _ in offsets], [[] for _ in offsets])
    # A token belongs to the document in which its first character lies.
    owner = np.searchsorted(np.asarray(joined.starts), stream.starts, side="right") - 1
    documents, firsts = [], []
    for window in owner[positions]:
        first = np.flatnonzero(np.diff(window, prepend=-1))
        documents.append([joined.names[index] for index in window[first]])
        firsts.append([int(position) for position in first])
    return Windows(token_ids, documents, firsts)


def random_windows(
    encode: Callable[[int], TokenIds],
    names: Sequence[str],
    length: int,
    count: int,
    seed: int,
    bos: int | None = None,
) -> Windows:
    """Draw random windows out of random documents.

    The draws are those of the published code, number by number: documents are drawn with
    replacement until one has *more* than ``length`` tokens, then the window's first token is drawn
    from ``0..tokens - length - 1``; with ``bos``, ``length`` there is one less.

    Args:
        encode: Returns the token ids of a document, given its number.
        names: Names of the documents.
        length: Tokens per window, ``bos`` included.
        count: Number of windows.
        seed: Seed of Python's own generator.
        bos: Token to put in front of each window, None for none.

    Raises:
        LpstepsError: No document is long enough.
    """
    text = _text_tokens(length, bos)
    generator = random.Random(seed)
    long_enough: dict[int, bool] = {}
    token_ids = np.empty((count, text), dtype=np.int32)
    documents = []
    for window in track(range(count), "drawing windows"):
        while True:
            document = generator.randint(0, len(names) - 1)
            if long_enough.get(document, True):
                ids = encode(document)
                long_enough[document] = len(ids) > text
                if long_enough[document]:
                    break
            if len(long_enough) == len(names) and not any(long_enough.values()):
                raise LpstepsError(
                    f"length: {length}: no document has more tokens than that; "
                    "ask for shorter windows"
                )
        start = generator.randint(0, len(ids) - text - 1)
        token_ids[window] = ids[start : start + text]
        documents.append([names[document]])
    return _behind(bos, Windows(token_ids, documents, [[0] for _ in range(count)]))


def windows_table(windows: Windows, metadata: dict[str, str]) -> pa.Table:
    """Return windows as a table: ``window``, ``token_ids``, ``documents``, ``offsets``.

    Args:
        windows: The windows.
        metadata: Kept in the schema of the table.
    """
    import pyarrow as pa

    count = len(windows.token_ids)
    columns = {
        "window": pa.array(range(count), pa.int32()),
        "token_ids": pa.array(list(windows.token_ids), pa.list_(pa.int32())),
        "documents": pa.array(windows.documents, pa.list_(pa.string())),
        "offsets": pa.array(windows.offsets, pa.list_(pa.int32())),
    }
    return pa.table(columns).replace_schema_metadata(metadata)
