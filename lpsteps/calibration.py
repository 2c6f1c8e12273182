"""One streaming pass over the calibration windows, for every selection and every recovery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from lpsteps.errors import LpstepsError
from lpsteps.hadamard import Basis
from lpsteps.models.boundaries import watching_boundaries
from lpsteps.models.excluded_tokens import check_exclude_first
from lpsteps.models.layers import decoder_of
from lpsteps.models.overflow import overflow_error
from lpsteps.statistics import IDENTITY, Array, SampleStatistics

# Tokens that are summed in float32; sums across blocks of them are float64.
_TOKEN_BLOCK = 64

# A product of matrices with a multiple of so many rows takes half the time of one with a row less.
_ROW_MULTIPLE = 8

# A channel that is zero at every token is divided by this instead of zero.
_SMALLEST_NORM = 1e-12


class Rotation:
    """Applies `x @ basis.matrix` through the Kronecker factors, in float32.

    A row of `n` channels costs `n * (sum of the factor orders)` multiplications: for 4096 channels
    in factors of 64, 32 times fewer than the dense product.
    """

    def __init__(self, basis: Basis, device: torch.device) -> None:
        """Put the factors on `device`."""
        *first, last = basis.factors
        self._last = torch.tensor(last / basis.divisor, dtype=torch.float32, device=device)
        # The inner ones first, each with the number of channels that it leaves together.
        inner = len(last)
        self._others: list[tuple[torch.Tensor, int]] = []
        for factor in reversed(first):
            transposed = torch.tensor(factor.T, dtype=torch.float32, device=device).contiguous()
            self._others.append((transposed, inner))
            inner *= len(factor)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Rotate float32 rows `[..., size]`; returns a new tensor of the same shape."""
        rotated = rows.reshape(-1, len(self._last)) @ self._last
        for transposed, inner in self._others:
            blocks = rotated.view(-1, len(transposed), inner)
            rotated = torch.bmm(transposed.expand(len(blocks), -1, -1), blocks)
        return rotated.view(rows.shape)


def stream_statistics(
    model: PreTrainedModel,
    windows: npt.NDArray[np.integer],
    basis: Basis,
    *,
    basis_kind: str = "hadamard",
    batch: int = 1,
    exclude_first: int = 0,
) -> Iterator[SampleStatistics]:
    """Run the decoder over the windows and yield the statistics of each.

    Everything is computed from the activations in float32. Sums run in float32 over a block of 64
    tokens and in float64 over the blocks. The language-model head and the key-value cache are not
    computed.

    Peak memory beside the model's own: the streams of one batch at all boundaries, in the dtype of
    the model, `[n_layers + 1, batch, length, hidden_size]`, and a few tensors of the size of one
    boundary or of one block of tokens at all boundaries, in float32, whatever the number of
    windows. For 32 layers, 2048 tokens and 4096 channels in 16 bits that is 0.55 GB per window of
    the batch.

    Args:
        model: A causal language model of a known family.
        windows: Token ids `[windows, length]`, without padding.
        basis: The rotated basis, of the model's hidden size.
        basis_kind: Under which name the rotated means are filed.
        batch: Windows per forward pass.
        exclude_first: Tokens at the start of each window that are left out of all means. They are
            still read by the model.

    Raises:
        LpstepsError: No token is left, a token id is outside the vocabulary, or an activation or
            its square is not finite.
    """
    length = windows.shape[1]
    check_exclude_first(exclude_first, length)
    vocabulary = model.config.vocab_size
    if windows.size and not 0 <= windows.min() <= windows.max() < vocabulary:
        raise LpstepsError(
            f"windows: token ids {windows.min()} to {windows.max()}: the model's vocabulary has "
            f"{vocabulary} entries; delete the windows to cut them anew"
        )
    decoder = decoder_of(model)
    boundaries = len(decoder.layers) + 1
    tokens = length - exclude_first
    hidden_size = basis.size
    rotation = Rotation(basis, model.device)
    # One tensor for each boundary, in the dtype that arrives there; all batches share it.
    streams: dict[int, torch.Tensor] = {}
    # Sums over tokens of |x| in both bases and of the square, [kind, sample of the batch, boundary,
    # channel].
    sums = torch.empty(
        (3, min(batch, len(windows)), boundaries, hidden_size),
        dtype=torch.float64,
        device=model.device,
    )

    def observe(boundary: int, hidden: torch.Tensor) -> None:
        samples = len(hidden)
        kept = hidden[:, exclude_first:]
        if boundary not in streams:
            streams[boundary] = torch.empty_like(kept, device=model.device)
        rows = streams[boundary][:samples].copy_(kept).float()
        sums[0, :samples, boundary] = _sum_over_tokens(rows.abs())
        sums[1, :samples, boundary] = _sum_over_tokens(rotation(rows).abs_())
        sums[2, :samples, boundary] = _sum_over_tokens(rows.square())

    for start in range(0, len(windows), batch):
        token_ids = torch.tensor(windows[start : start + batch], dtype=torch.long).to(model.device)
        with torch.inference_mode(), watching_boundaries(model, observe):
            decoder.backbone(input_ids=token_ids, use_cache=False)
        for sample in range(len(token_ids)):
            identity, rotated = (sums[:2, sample] / tokens).cpu().numpy()
            if not np.isfinite(identity).all():
                raise overflow_error(model.dtype, start + sample)
            of_sample = [streams[boundary][sample] for boundary in range(boundaries)]
            last_token_cosine = _cosines(torch.stack([stream[-1] for stream in of_sample]))
            cosine, token_axis_cosine = _mean_cosines(of_sample, sums[2, sample])
            if not (np.isfinite(cosine).all() and sums[2, sample].isfinite().all()):
                raise LpstepsError(
                    f"windows: {start + sample}: activations of {identity.max():.1e} on average: "
                    "their squares overflow in float32; the model cannot be calibrated"
                )
            yield SampleStatistics(
                tokens=tokens,
                mean_absolute={IDENTITY: identity, basis_kind: rotated},
                cosine=cosine,
                last_token_cosine=last_token_cosine,
                token_axis_cosine=token_axis_cosine,
            )


def _cosines(vectors: torch.Tensor) -> Array:
    """Return all pairwise cosines of `[vectors, size]`, float64 `[vectors, vectors]`."""
    unit_vectors = torch.nn.functional.normalize(vectors.double(), dim=1)
    return (unit_vectors @ unit_vectors.T).cpu().numpy()


def _sum_over_tokens(rows: torch.Tensor) -> torch.Tensor:
    """Sum float32 `[samples, tokens, channels]`; returns float64 `[samples, channels]`."""
    samples, tokens, channels = rows.shape
    whole = tokens // _TOKEN_BLOCK * _TOKEN_BLOCK
    blocks = rows[:, :whole].reshape(samples, -1, _TOKEN_BLOCK, channels).sum(dim=2)
    total = blocks.sum(dim=1, dtype=torch.float64)
    return total if whole == tokens else total + rows[:, whole:].sum(dim=1)


def _mean_cosines(streams: Sequence[torch.Tensor], squares: torch.Tensor) -> tuple[Array, Array]:
    """Return all pairwise cosines over channels and over tokens.

    Over channels there is a Gram matrix of the boundaries for each token, whose diagonal holds the
    squared norms that it is divided by. Over tokens the sum of such matrices over all channels is
    the sum over all tokens of those of the numbers divided by the norms of their channels. A vector
    of zeros has cosine 0 with any other; norms below 1e-12 count as 1e-12.

    Args:
        streams: Of each boundary, `[tokens, hidden_size]`.
        squares: Sums over tokens of their squares, float64 `[boundaries, hidden_size]`.

    Returns:
        The mean over tokens of the cosines over channels, and the mean over channels of the cosines
        over tokens, both float64 `[boundaries, boundaries]`.
    """
    boundaries, channels = squares.shape
    tokens = len(streams[0])
    # Rows of zeros fill up a multiple.
    padded = -(-boundaries // _ROW_MULTIPLE) * _ROW_MULTIPLE
    by_token = torch.zeros((_TOKEN_BLOCK, padded, channels), device=squares.device)
    totals = torch.zeros((2, padded, padded), dtype=torch.float64, device=squares.device)
    channel_norms = squares.sqrt().float().clamp_min(_SMALLEST_NORM)
    for start in range(0, tokens, _TOKEN_BLOCK):
        by_token = by_token[: tokens - start]
        for boundary, stream in enumerate(streams):
            by_token[:, boundary] = stream[start : start + _TOKEN_BLOCK]
        grams = torch.bmm(by_token, by_token.mT)
        norms = grams.diagonal(dim1=1, dim2=2).sqrt().clamp_min(_SMALLEST_NORM)
        cosines = grams.div_(norms[:, :, None]).div_(norms[:, None, :])
        totals[0] += cosines.sum(dim=0, dtype=torch.float64)
        by_token[:, :boundaries].div_(channel_norms)
        totals[1] += torch.bmm(by_token, by_token.mT).sum(dim=0, dtype=torch.float64)
    over_channels, over_tokens = totals[:, :boundaries, :boundaries].cpu().numpy()
    return over_channels / tokens, over_tokens / channels
