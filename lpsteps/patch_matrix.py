"""The matrix that scales channels in a basis of their own: LinearPatch's patch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def patch_matrix(
    basis: npt.NDArray[np.float64], ratios: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return ``H diag(d) H^T``.

    Args:
        basis: Orthonormal H, float64 ``[hidden_size, hidden_size]``, basis vectors in columns.
        ratios: Scales d in that basis, float64 ``[hidden_size]``.

    Returns:
        A symmetric matrix, float64 ``[hidden_size, hidden_size]``, with eigenvalues d.
    """
    product = (basis * ratios) @ basis.T
    # Rounding leaves the two triangles apart by some ulp; their mean is exactly symmetric.
    return (product + product.T) / 2.0
