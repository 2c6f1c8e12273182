"""Exact solvers for the repairs that minimise a reconstruction error, on moments, in float64.

A gap is repaired by a map of the rows A (the residual stream in front of the gap) that comes near
the rows B (the stream behind it in the dense model). Every squared error of a linear map follows
from a few products of these rows, so no solver here sees a row: a problem is its
:class:`Regression`.

Problems are solved through the eigenvectors of the Gram matrix, and not by a Cholesky factor of it.
A few tokens with massive activations make it so ill-conditioned that an absolute ridge as small as
1e-6 lies far below its rounding errors; in a direction that no token takes a factor would then
divide rounding error by rounding error. Eigenvalues tell these directions apart, whatever the
ridge, and one decomposition serves every ridge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lpsteps.errors import LpstepsError

if TYPE_CHECKING:
    from lpsteps.moments import Moments

Array = npt.NDArray[np.float64]

RelativeRidge = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["heldout"]

RIDGE_GRID: Final = (0.0, *(10.0 ** (exponent / 2) for exponent in range(-16, 5)))
"""Relative ridges that ``"heldout"`` chooses from: none, and 1e-8 to 100 in half decades."""


class RidgeParams(BaseModel):
    """The ridge of a fit, relative or as an absolute number.

    Attributes:
        ABSOLUTE: Name of the parameter with the absolute one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ABSOLUTE: ClassVar[str]

    relative_ridge: RelativeRidge | None = Field(
        default=None,
        description="Ridge in units of the mean eigenvalue of the matrix that it is added to, "
        "instead of an absolute one; heldout: the one of 0 and 1e-8 to 100 with the least error on "
        "held-out windows",
    )

    @model_validator(mode="after")
    def _one_ridge(self) -> Self:
        if self.relative_ridge is not None and self.ABSOLUTE in self.model_fields_set:
            raise ValueError(
                f"{self.ABSOLUTE} and relative_ridge are two ways to set one ridge: give one"
            )
        return self


@dataclass(frozen=True, eq=False)
class Regression:
    """The problem ``min over M of sum_t w_t |z_t M - d_t|^2``, as the moments of its rows.

    Attributes:
        gram: ``sum_t w_t z_t' z_t``, ``[inputs, inputs]``.
        products: ``sum_t w_t z_t' d_t``, ``[inputs, outputs]``.
        square: ``sum_t w_t |d_t|^2``, the error of ``M = 0``.
    """

    gram: Array
    products: Array
    square: float

    @property
    def scale(self) -> float:
        """Mean eigenvalue of the Gram matrix: the unit of a relative ridge."""
        return float(np.trace(self.gram)) / len(self.gram)

    def error(self, matrix: Array) -> float:
        """Return the sum of squares that ``M = matrix`` leaves, never negative by rounding."""
        fitted = np.vdot(matrix, self.gram @ matrix - 2.0 * self.products)
        return max(0.0, self.square + float(fitted))


@dataclass(frozen=True, eq=False)
class Centre:
    """A point that the rows of a regression are counted from.

    Attributes:
        source: Taken off every row A, ``[hidden_size]``.
        added: Taken off every row B - A, ``[hidden_size]``.
    """

    source: Array
    added: Array

    @classmethod
    def of(cls, moments: Moments) -> Centre:
        """Return the weighted means of the rows."""
        added = moments.target_sum - moments.source_sum
        return cls(moments.source_sum / moments.weight, added / moments.weight)

    def shift(self, matrix: Array) -> Array:
        """Return the best intercept b of ``A + A @ matrix + b`` when the means are the centre."""
        return self.added - self.source @ matrix


def added_regression(moments: Moments, centre: Centre | None = None) -> Regression:
    """Return the regression of what the removed layers add, B - A, on what they read, A.

    With a solution M the repair is ``x + x @ M``, so that a ridge on M draws it to no repair.

    Args:
        moments: Products of the rows.
        centre: Count rows from here; fitted and held-out moments of one fit share a centre. None
            for a map without an intercept.
    """
    gram = moments.source_source
    products = moments.source_target - gram
    square = moments.target_square + float(np.trace(gram) - 2.0 * np.trace(moments.source_target))
    if centre is not None:
        weight, source_sum = moments.weight, moments.source_sum
        added_sum = moments.target_sum - source_sum
        source, added = centre.source, centre.added
        gram = gram - np.outer(source_sum - weight * source, source) - np.outer(source, source_sum)
        products = (
            products - np.outer(source_sum - weight * source, added) - np.outer(source, added_sum)
        )
        square -= float((2.0 * added_sum - weight * added) @ added)
    return Regression(gram, products, square)


class RidgeSolver:
    """Solves one regression for any ridge: ``M = (Z'Z + ridge I)^-1 Z'D``.

    Directions that no row takes (eigenvalues of the Gram matrix within rounding of zero) are mapped
    to zero, which is the limit of a vanishing ridge in exact arithmetic.
    """

    def __init__(self, regression: Regression) -> None:
        """Decompose the Gram matrix.

        Raises:
            LpstepsError: The moments are not finite.
        """
        if not (np.isfinite(regression.gram).all() and np.isfinite(regression.products).all()):
            raise LpstepsError(
                "moments: not finite: some activation overflows; calibrate in float32"
            )
        self._eigenvalues, self._vectors = np.linalg.eigh(regression.gram)
        smallest = len(regression.gram) * np.finfo(np.float64).eps * self._eigenvalues[-1]
        self._taken = self._eigenvalues > smallest
        self._products = self._vectors.T @ regression.products

    def solve(self, ridge: float) -> Array:
        """Return the minimiser of ``error(M) + ridge |M|^2``, ``[inputs, outputs]``."""
        return self._finite(self._vectors @ self._rotated(ridge), ridge)

    def solve_low_rank(self, ridge: float, rank: int) -> tuple[Array, Array]:
        """Return the best M of at most a given rank, in two factors.

        This is reduced-rank regression (A. Izenman, 1975): it minimises the same error as
        :meth:`solve`, in which directions of strong activations weigh more. Cutting off small
        singular values of the solution would minimise another one, where all weigh the same.

        Args:
            ridge: As in :meth:`solve`.
            rank: From 1 to the number of outputs.

        Returns:
            ``left [inputs, rank]`` and ``right [outputs, rank]``, orthonormal columns, with
            ``M = left @ right.T``.
        """
        rotated = self._rotated(ridge)
        # Fitted values, up to a rotation: their leading directions are the ones to keep.
        fitted = np.sqrt(np.where(self._taken, self._eigenvalues + ridge, 0.0))[:, None] * rotated
        right = np.linalg.eigh(fitted.T @ fitted)[1][:, ::-1][:, :rank]
        return self._finite(self._vectors @ (rotated @ right), ridge), right

    def _rotated(self, ridge: float) -> Array:
        inverse = np.zeros_like(self._eigenvalues)
        np.divide(1.0, self._eigenvalues + ridge, out=inverse, where=self._taken)
        rotated: Array = inverse[:, None] * self._products
        return rotated

    def _finite(self, solution: Array, ridge: float) -> Array:
        if not np.isfinite(solution).all():
            raise LpstepsError(
                f"ridge: {ridge:g}: the solution overflows, because the smallest eigenvalue that "
                f"counts is {self._eigenvalues[self._taken][0]:g}; use a larger ridge"
            )
        return solution


def heldout_errors(fit: Regression, heldout: Regression, rank: int | None = None) -> Array:
    """Return the held-out error of the fitted solution for every ridge in the grid.

    Args:
        fit: What solutions are fitted to.
        heldout: What they are judged by.
        rank: Largest rank of the solutions, None for any.

    Returns:
        Sums of squares, float64 ``[len(RIDGE_GRID)]``.
    """
    solver = RidgeSolver(fit)
    errors = []
    for relative in RIDGE_GRID:
        ridge = relative * fit.scale
        if rank is None:
            matrix = solver.solve(ridge)
        else:
            left, right = solver.solve_low_rank(ridge, rank)
            matrix = left @ right.T
        errors.append(heldout.error(matrix))
    return np.array(errors)


def resolved_ridge(
    absolute: float,
    relative: float | Literal["heldout"] | None,
    fit: Regression,
    heldout: Regression,
    total: Regression,
    rank: int | None = None,
) -> tuple[float, dict[str, Array]]:
    """Return the ridge for the final fit, and audit tensors that say where it comes from.

    Args:
        absolute: The ridge, when there is no relative one.
        relative: The ridge in units of ``total.scale``; ``"heldout"`` takes the one of
            :data:`RIDGE_GRID` whose solution on ``fit`` has the least error on ``heldout``.
        fit: Regression on one part of the text.
        heldout: Regression on the rest.
        total: Regression on all of it, which the final fit uses.
        rank: Largest rank of the solutions, None for any.
    """
    audit: dict[str, Array] = {}
    if relative == "heldout":
        audit["relative_ridges"] = np.array(RIDGE_GRID)
        audit["heldout_errors"] = heldout_errors(fit, heldout, rank)
        chosen: float | None = RIDGE_GRID[int(audit["heldout_errors"].argmin())]
    else:
        chosen = relative
    ridge = absolute
    if chosen is not None:
        audit["relative_ridge"] = np.array([chosen])
        ridge = chosen * total.scale
    audit["ridge"] = np.array([ridge])
    return ridge, audit


def diagonal_scales(source_squares: Array, products: Array) -> Array:
    """Return the scales d that minimise ``|A diag(d) - B|^2``: ``d_k = a_k . b_k / |a_k|^2``.

    Args:
        source_squares: ``|a_k|^2`` of each channel of A, ``[hidden_size]``.
        products: ``a_k . b_k`` of each channel, ``[hidden_size]``.

    Returns:
        Scales ``[hidden_size]``; 1 where a channel of A is silent (within rounding).
    """
    smallest = len(source_squares) * np.finfo(np.float64).eps * source_squares.max()
    scales = np.ones_like(source_squares)
    np.divide(products, source_squares, out=scales, where=source_squares > smallest)
    return scales


def scaled_rotation(
    source_source: Array, source_target: Array, penalty: float = 0.0
) -> tuple[float, Array]:
    """Solve the orthogonal Procrustes problem ``min |A c Q - B|^2 + penalty c^2``.

    ``Q = U V'`` of the singular vectors of A'B and ``c = tr(Q' A'B) / (|A|^2 + penalty)``
    (P. Schönemann, 1966). Where the rows leave Q open, it is as near to the identity as it can be.

    Args:
        source_source: A'A.
        source_target: A'B.
        penalty: Weight of the squared scale.

    Returns:
        c and the orthogonal Q ``[hidden_size, hidden_size]``.

    Raises:
        LpstepsError: The moments are not finite, or the best scale is not positive.
    """
    if not (np.isfinite(source_source).all() and np.isfinite(source_target).all()):
        raise LpstepsError("moments: not finite: some activation overflows; calibrate in float32")
    left, values, right = np.linalg.svd(source_target)
    free = values <= len(values) * np.finfo(np.float64).eps * values[0]
    # Any pairing of the free directions fits the rows as well; this one has the largest trace.
    back, _, front = np.linalg.svd(right[free] @ left[:, free])
    rotation = left[:, ~free] @ right[~free] + left[:, free] @ (back @ front).T @ right[free]
    agreement = float(np.vdot(rotation, source_target))
    if agreement <= 0.0:
        raise LpstepsError(
            "moments: the streams on both sides of a gap do not correlate: no rotation fits"
        )
    return agreement / (float(np.trace(source_source)) + penalty), rotation
