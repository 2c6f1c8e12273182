"""One streaming pass over text for the token-wise scalings of a cut."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from lpsteps.calibration import Rotation
from lpsteps.hadamard import Basis
from lpsteps.models.excluded_tokens import check_exclude_first
from lpsteps.models.gap_pass import read_gap
from lpsteps.models.overflow import overflow_error
from lpsteps.progress import track
from lpsteps.statistics import IDENTITY
from lpsteps.token_scales import Array, Ratios, TokenScales, token_ratios


def measure_token_scales(
    model: PreTrainedModel,
    windows: npt.NDArray[np.int64],
    gap: tuple[int, int],
    basis: Basis,
    *,
    basis_kind: str,
    epsilon: float,
    exclude_first: int = 0,
) -> dict[str, TokenScales]:
    """Run the layers up to the end of a cut, window by window, and summarise the ratios.

    Streams are rotated in float32; ratios and their moments are float64. Beside the model, the
    ratios of one window are in memory, ``[tokens, hidden_size]``.

    Args:
        model: The dense model.
        windows: Token ids ``[windows, length]``.
        gap: First removed layer, and the layer after the last one.
        basis: The rotated basis.
        basis_kind: Under which name its ratios are filed.
        epsilon: Floor under denominators, see `lpsteps.token_scales`.
        exclude_first: Tokens at the start of each window that do not count. From one on there are
            no first tokens.

    Returns:
        The summaries of the model's own basis and of the rotated one.

    Raises:
        LpstepsError: No token is left, or an activation is not finite.
    """
    check_exclude_first(exclude_first, windows.shape[1])
    rotation = Rotation(basis, model.device)
    nothing = Ratios.of(np.empty(0))
    found = {name: TokenScales(nothing, nothing) for name in (IDENTITY, basis_kind)}

    def rows(stream: torch.Tensor) -> dict[str, Array]:
        kept = stream[0, exclude_first:]
        return {
            IDENTITY: kept.double().cpu().numpy(),
            basis_kind: rotation(kept).double().cpu().numpy(),
        }

    for number, window in enumerate(track(windows, "token scales", total=len(windows))):
        streams = read_gap(model, torch.tensor(window[None]), *gap)
        if not (streams.source.isfinite().all() and streams.target.isfinite().all()):
            raise overflow_error(model.dtype, number)
        source, target = rows(streams.source), rows(streams.target)
        first = 1 if exclude_first == 0 else 0
        for name, before in found.items():
            ratios = token_ratios(source[name], target[name], epsilon)
            found[name] = TokenScales(
                before.first + Ratios.of(ratios[:first]),
                before.others + Ratios.of(ratios[first:]),
            )
    return found
