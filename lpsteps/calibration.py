"""One streaming pass over the calibration windows, for every selection and every recovery."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from lpsteps.errors import LpstepsError
from lpsteps.hadamard import Basis
from lpsteps.models.boundaries import watching_boundaries
from lpsteps.models.layers import decoder_of
from lpsteps.statistics import IDENTITY, Array, SampleStatistics

# Tokens per matrix product of the cosines. Inside a block they are summed in float32, across blocks
# in float64.
_TOKEN_BLOCK = 128

# A channel that is zero at every token is divided by this instead of zero.
_SMALLEST_NORM = 1e-12


class Rotation:
    """Applies `x @ basis.matrix` through the Kronecker factors, in float32.

    A row of `n` channels costs `n * (sum of the factor orders)` multiplications: for 4096 channels
    in factors of 64, 32 times fewer than the dense product.
    """

    def __init__(self, basis: Basis, device: torch.device) -> None:
        """Put the factors on `device`."""
        self._factors = [
            torch.tensor(factor, dtype=torch.float32, device=device) for factor in basis.factors
        ]
        self._size = basis.size
        self._divisor = basis.divisor

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Rotate float32 rows `[..., size]`; returns a new tensor of the same shape."""
        rotated = rows.reshape(-1, self._size)
        # Each turn contracts the leading factor's axis and moves it to the end; after the last
        # factor the axes are back in their first order.
        for factor in self._factors:
            order = len(factor)
            split = rotated.reshape(-1, order, self._size // order)
            rotated = (split.transpose(1, 2) @ factor).reshape(-1, self._size)
        return (rotated / self._divisor).reshape(rows.shape)


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

    Activations are cast to float32. Means of `|x|` are accumulated in float64, cosines in float64
    over float32 blocks of tokens. The language-model head and the key-value cache are not computed.

    Peak memory beside the model's own: the streams of one batch at all boundaries, float32
    `[batch, n_layers + 1, length, hidden_size]`, and a few tensors of the size of one boundary or
    of one block of tokens at all boundaries, whatever the number of windows. For 32 layers, 2048
    tokens and 4096 channels that is 1.1 GB per window of the batch. They stay in float32 because a
    cosine close to 1, the interesting case, would lose most of its digits in 16 bits.

    Args:
        model: A causal language model of a known family.
        windows: Token ids `[windows, length]`, without padding.
        basis: The rotated basis, of the model's hidden size.
        basis_kind: Under which name the rotated means are filed.
        batch: Windows per forward pass.
        exclude_first: Tokens at the start of each window that are left out of all means. They are
            still read by the model.

    Raises:
        LpstepsError: No token is left, a token id is outside the vocabulary, or an activation is
            not finite.
    """
    length = windows.shape[1]
    if not 0 <= exclude_first < length:
        raise LpstepsError(f"exclude_first: {exclude_first}: must lie in 0 to {length - 1}")
    vocabulary = model.config.vocab_size
    if windows.size and not 0 <= windows.min() <= windows.max() < vocabulary:
        raise LpstepsError(
            f"windows: token ids {windows.min()} to {windows.max()}: the model's vocabulary has "
            f"{vocabulary} entries; delete the windows to cut them anew"
        )
    decoder = decoder_of(model)
    boundaries = len(decoder.layers) + 1
    hidden_size = basis.size
    rotation = Rotation(basis, model.device)
    streams = torch.empty(
        (min(batch, len(windows)), boundaries, length - exclude_first, hidden_size),
        device=model.device,
    )
    # [basis, sample of the batch, boundary, channel]
    means = torch.empty(
        (2, len(streams), boundaries, hidden_size), dtype=torch.float64, device=model.device
    )

    def observe(boundary: int, hidden: torch.Tensor) -> None:
        rows = hidden[:, exclude_first:].to(device=model.device, dtype=torch.float32)
        samples = len(rows)
        means[0, :samples, boundary] = rows.abs().mean(dim=1, dtype=torch.float64)
        means[1, :samples, boundary] = rotation(rows).abs().mean(dim=1, dtype=torch.float64)
        streams[:samples, boundary] = rows

    for start in range(0, len(windows), batch):
        token_ids = torch.tensor(windows[start : start + batch], dtype=torch.long).to(model.device)
        with torch.inference_mode(), watching_boundaries(model, observe):
            decoder.backbone(input_ids=token_ids, use_cache=False)
        for sample in range(len(token_ids)):
            identity, rotated = means[:, sample].cpu().numpy().copy()
            if not np.isfinite(identity).all():
                raise LpstepsError(
                    f"windows: {start + sample}: activations are not finite in "
                    f"{str(model.dtype).removeprefix('torch.')}; set dtype: float32"
                )
            cosine, token_axis_cosine = _mean_cosines(streams[sample])
            yield SampleStatistics(
                tokens=length - exclude_first,
                mean_absolute={IDENTITY: identity, basis_kind: rotated},
                cosine=cosine,
                last_token_cosine=_cosines(streams[sample, :, -1]),
                token_axis_cosine=token_axis_cosine,
            )


def _cosines(vectors: torch.Tensor) -> Array:
    """Return all pairwise cosines of float32 `[vectors, size]`, float64 `[vectors, vectors]`."""
    unit_vectors = torch.nn.functional.normalize(vectors.double(), dim=1)
    return (unit_vectors @ unit_vectors.T).cpu().numpy()


def _mean_cosines(streams: torch.Tensor) -> tuple[Array, Array]:
    """Return all pairwise cosines over channels and over tokens.

    The mean of `<u_i[t], u_j[t]>` over tokens `t`, `u` the unit vectors over channels, is one inner
    product over tokens and channels together, so all pairs are a single Gram matrix. The cosines
    over tokens are a second one, of the same numbers divided by the norms of the channels. A
    vector of zeros has cosine 0 with any other.

    Args:
        streams: Float32 `[boundaries, tokens, hidden_size]`.

    Returns:
        The mean over tokens of the cosines over channels, and the mean over channels of the cosines
        over tokens, both float64 `[boundaries, boundaries]`.
    """
    boundaries, tokens, channels = streams.shape
    totals = torch.zeros((2, boundaries, boundaries), dtype=torch.float64, device=streams.device)
    squares = torch.zeros((boundaries, channels), dtype=torch.float64, device=streams.device)
    blocks = torch.split(streams, _TOKEN_BLOCK, dim=1)
    for block in blocks:
        squares += block.square().sum(dim=1)
    channel_norms = squares.sqrt().float().clamp_min(_SMALLEST_NORM)[:, None]
    for block in blocks:
        by_token = torch.nn.functional.normalize(block, dim=2).reshape(boundaries, -1)
        totals[0] += by_token @ by_token.T
        by_channel = (block / channel_norms).reshape(boundaries, -1)
        totals[1] += by_channel @ by_channel.T
    return (totals[0] / tokens).cpu().numpy(), (totals[1] / channels).cpu().numpy()
