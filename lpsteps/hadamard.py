"""Orthonormal bases that spread every channel over all channels, for any hidden size.

LinearPatch rotates activations with a Hadamard matrix before it scales their channels. Such a
matrix is known for almost every hidden size in use, as a Kronecker product of classical ones:

- Sylvester: order `2**a`.
- Paley I: order `q + 1` for a prime `q = 3 (mod 4)`; Paley II: order `2 (q + 1)` for a prime
  `q = 1 (mod 4)` (R. Paley, "On orthogonal matrices", 1933).

The core (Paley) comes first in the product, Sylvester factors follow in their natural order. Signs
and ordering of the Paley matrices are those of N. Sloane's tables, which QuaRot and LinearPatch
ship, so that activations can be compared with theirs channel by channel where the size is a power
of two (4096) or its core is symmetric (28 and 36: 3584, 576). The cores of order 12, 20 and 60 are
not, and programs multiply by them or by their transposes; and for multiples of 40 (5120) theirs
have another order of the factors. Those are other bases of the same kind. Sizes without a Hadamard
matrix here get a seeded random orthogonal matrix instead.

LinearPatch uses the Hadamard matrix alone (arXiv 2505.24680, section 3). To show what it
contributes there are four bases to compare it with: the channels themselves, a Hadamard matrix
behind random signs (QuaRot, arXiv 2404.00456), a random orthogonal matrix and the discrete cosine
transform, which exists for every size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lpsteps.errors import LpstepsError, nearest

Matrix = npt.NDArray[np.float64]
# The kinds that a calibration may rotate into: their matrix is that of `Basis.factors` alone.
BasisKind = Literal["hadamard", "random_orthogonal"]
AnyBasisKind = Literal[BasisKind, "identity", "randomised_hadamard", "dct"]

ANY_BASIS_KINDS: tuple[AnyBasisKind, ...] = (
    "identity",
    "hadamard",
    "randomised_hadamard",
    "random_orthogonal",
    "dct",
)

# Kronecker factors are kept at most of the order 64, which keeps a rotation cheap: rotating a row
# costs `n * (sum of the factor orders)` multiplications instead of `n * n`.
_LARGEST_SYLVESTER_EXPONENT = 6


@dataclass(frozen=True, eq=False)
class Basis:
    """An orthonormal matrix in factored form, applied to rows from the right: `x @ matrix`.

    Attributes:
        name: The construction, for example `"paley-ii-36 (x) sylvester-16"`.
        factors: Kronecker factors from left to right, float64, not normalised.
        divisor: The Kronecker product of the factors is divided by this number.
        signs: Ones and minus ones, float64 `[size]`, that multiply the channels of a row before the
            factors do; None where every one of them is 1.
    """

    name: str
    factors: tuple[Matrix, ...]
    divisor: float
    signs: npt.NDArray[np.float64] | None = None

    @property
    def size(self) -> int:
        """Order of the matrix, the hidden size."""
        return math.prod(len(factor) for factor in self.factors)

    @cached_property
    def matrix(self) -> Matrix:
        """The matrix itself, float64 `[size, size]`; `matrix @ matrix.T` is the identity."""
        product: npt.NDArray[Any] = np.ones((1, 1))
        for factor in self.factors:
            product = np.kron(product, factor)
        if self.signs is not None:
            product = self.signs[:, None] * product
        return product / self.divisor

    @property
    def flatness(self) -> float:
        """Largest entry times `sqrt(size)`: 1 for a Hadamard matrix, larger for any other basis."""
        largest = math.prod(float(np.abs(factor).max()) for factor in self.factors)
        return largest * math.sqrt(self.size) / self.divisor


def basis_matrix(n: int, kind: str = "hadamard", seed: int = 0) -> Basis:
    """Return an orthonormal basis of order `n`.

    Args:
        n: Hidden size.
        kind: `"identity"`; `"hadamard"`; `"randomised_hadamard"`, the same behind a random sign for
            every channel; `"random_orthogonal"` (distributed uniformly over all orthogonal
            matrices); or `"dct"`, the orthonormal discrete cosine transform of type II, lowest
            frequency first. Where no Hadamard matrix is known, both kinds that ask for one fall
            back to the random orthogonal matrix; the basis's name tells.
        seed: Seed of the random signs and of the random orthogonal matrix; the other kinds do not
            depend on it.

    Raises:
        LpstepsError: `n` is not positive, or `kind` is unknown.
    """
    if n < 1:
        raise LpstepsError(f"n: {n}: the order of a basis is at least 1")
    if kind not in ANY_BASIS_KINDS:
        raise LpstepsError(f"basis: {kind}: {nearest(kind, ANY_BASIS_KINDS)}")
    if kind == "identity":
        return Basis(f"identity-{n}", (np.eye(n),), 1.0)
    if kind == "dct":
        return Basis(f"dct-ii-{n}", (_cosine_transform(n),), 1.0)
    orders = None if kind == "random_orthogonal" else _hadamard_orders(n)
    if orders is None:
        return Basis(f"random-orthogonal-{n}-seed-{seed}", (_random_orthogonal(n, seed),), 1.0)
    parts = [_CONSTRUCTIONS[construction](order) for construction, order in orders]
    name = " (x) ".join(f"{construction}-{order}" for construction, order in orders)
    factors = tuple(factor for part in parts for factor in part)
    if kind == "hadamard":
        return Basis(name, factors, math.sqrt(n))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], n)
    return Basis(f"signs-seed-{seed} {name}", factors, math.sqrt(n), signs)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


@cache
def _hadamard_orders(n: int) -> tuple[tuple[str, int], ...] | None:
    """Split `n` into orders that can be constructed: (construction, order) pairs, core first.

    One core with a Sylvester remainder is preferred, with the smallest core that exists; only when
    there is none is `n` split into two parts that each have a core of their own.
    """
    twos = (n & -n).bit_length() - 1
    odd = n >> twos
    if odd == 1:
        return (("sylvester", n),)
    for power in range(2, twos + 1):
        core = odd << power
        if _is_prime(core - 1):
            construction = "paley-i"
        elif _is_prime(core // 2 - 1) and core // 2 % 4 == 2:
            construction = "paley-ii"
        else:
            continue
        remainder = n // core
        return ((construction, core), *((("sylvester", remainder),) if remainder > 1 else ()))
    for part in range(4, math.isqrt(n) + 1, 4):
        if n % part == 0:
            first, second = _hadamard_orders(part), _hadamard_orders(n // part)
            if first is not None and second is not None:
                return (*first, *second)
    return None


def _sylvester(order: int) -> tuple[Matrix, ...]:
    """Return factors of nearly equal orders, the larger ones last, whose product is that matrix."""
    exponent = order.bit_length() - 1
    count = max(1, -(-exponent // _LARGEST_SYLVESTER_EXPONENT))
    return tuple(_sylvester_factor((exponent + position) // count) for position in range(count))


def _sylvester_factor(exponent: int) -> Matrix:
    factor = np.ones((1, 1))
    for _ in range(exponent):
        factor = np.kron(np.array([[1.0, 1.0], [1.0, -1.0]]), factor)
    return factor


def _jacobsthal(prime: int) -> Matrix:
    """Return `Q[i, j]`: 1, -1 or 0 as `i - j` is a square, a non-square or zero modulo `prime`."""
    character = np.full(prime, -1.0)
    character[np.arange(prime) ** 2 % prime] = 1.0
    character[0] = 0.0
    numbers = np.arange(prime)
    return np.take(character, (numbers[:, None] - numbers) % prime)


def _paley_i(order: int) -> tuple[Matrix, ...]:
    matrix = np.ones((order, order))
    matrix[0, 1:] = -1.0
    matrix[1:, 1:] = _jacobsthal(order - 1) + np.eye(order - 1)
    return (matrix,)


def _paley_ii(order: int) -> tuple[Matrix, ...]:
    half = order // 2
    conference = np.ones((half, half))
    conference[0, 0] = 0.0
    conference[1:, 1:] = _jacobsthal(half - 1)
    # The block form: the 2 x 2 pattern is the outer factor. The interleaved form, with the
    # conference matrix outside, is another valid matrix, but not the published one.
    on_conference = np.kron(np.array([[1.0, 1.0], [1.0, -1.0]]), conference)
    on_identity = np.kron(np.array([[1.0, -1.0], [-1.0, -1.0]]), np.eye(half))
    return (on_conference + on_identity,)


_CONSTRUCTIONS = {"sylvester": _sylvester, "paley-i": _paley_i, "paley-ii": _paley_ii}


def _random_orthogonal(n: int, seed: int) -> Matrix:
    """Return a Haar-distributed orthogonal matrix (F. Mezzadri, arXiv math-ph/0609050)."""
    orthogonal, triangular = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    # QR leaves the signs of the columns to the library; without this the result is not uniform.
    return orthogonal * np.sign(np.diag(triangular))


def _cosine_transform(n: int) -> Matrix:
    """Return the DCT-II, a frequency per column (K. Rao, P. Yip, "Discrete Cosine Transform")."""
    position, frequency = np.arange(n)[:, None], np.arange(n)
    matrix: Matrix = math.sqrt(2.0 / n) * np.cos(np.pi / (2 * n) * (2 * position + 1) * frequency)
    matrix[:, 0] /= math.sqrt(2.0)
    return matrix
