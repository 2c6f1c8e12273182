"""Orthonormal bases: orthogonality, agreement with published tables, coverage of hidden sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from lpsteps.errors import LpstepsError
from lpsteps.hadamard import ANY_BASIS_KINDS, basis_matrix

# Hidden sizes in use, with the construction that each must get.
PLANS = {
    1: "sylvester-1",
    2: "sylvester-2",
    48: "paley-i-12 (x) sylvester-4",
    576: "paley-ii-36 (x) sylvester-16",
    640: "paley-i-20 (x) sylvester-32",
    768: "paley-i-12 (x) sylvester-64",
    896: "paley-ii-28 (x) sylvester-32",
    960: "paley-i-60 (x) sylvester-16",
    1024: "sylvester-1024",
    1152: "paley-ii-36 (x) sylvester-32",
    1280: "paley-i-20 (x) sylvester-64",
    1536: "paley-i-12 (x) sylvester-128",
    1600: "paley-i-200 (x) sylvester-8",
    2048: "sylvester-2048",
    2304: "paley-ii-36 (x) sylvester-64",
    2560: "paley-i-20 (x) sylvester-128",
    2688: "paley-i-84 (x) sylvester-32",
    2816: "paley-i-44 (x) sylvester-64",
    2880: "paley-i-180 (x) sylvester-16",
    3072: "paley-i-12 (x) sylvester-256",
    3200: "paley-i-200 (x) sylvester-16",
    3584: "paley-ii-28 (x) sylvester-128",
    3840: "paley-i-60 (x) sylvester-64",
    4096: "sylvester-4096",
    4544: "paley-i-284 (x) sylvester-16",
    5120: "paley-i-20 (x) sylvester-256",
    5376: "paley-i-84 (x) sylvester-64",
    6144: "paley-i-12 (x) sylvester-512",
    6656: "paley-i-104 (x) sylvester-64",
    7168: "paley-ii-28 (x) sylvester-256",
    8192: "sylvester-8192",
    12288: "paley-i-12 (x) sylvester-1024",
    18432: "paley-ii-36 (x) sylvester-512",
}

# N. Sloane's had.12.pal and the first rows of both halves of had.28.pal2 and had.36.pal2.
TABLE_12 = """
+-----------
++-+---+++-+
+++-+---+++-
+-++-+---+++
++-++-+---++
+++-++-+---+
++++-++-+---
+-+++-++-+--
+--+++-++-+-
+---+++-++-+
++---+++-++-
+-+---+++-++
"""
ROWS_28 = {
    0: "++++++++++++++-+++++++++++++",
    1: "+++-++----++-++-+-++----++-+",
    14: "-+++++++++++++--------------",
    15: "+-+-++----++-+---+--++++--+-",
}
ROWS_36 = {
    0: "++++++++++++++++++-+++++++++++++++++",
    1: "++++-+---++---+-+++-++-+---++---+-++",
    18: "-+++++++++++++++++------------------",
    19: "+-++-+---++---+-++----+-+++--+++-+--",
}


def signs(text: str) -> list[float]:
    return [1.0 if sign == "+" else -1.0 for sign in text]


@pytest.mark.parametrize(("n", "name"), PLANS.items())
def test_hidden_sizes_get_their_construction(n: int, name: str) -> None:
    basis = basis_matrix(n)
    assert basis.name == name
    assert basis.size == n
    assert basis.flatness == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("n", [n for n in PLANS if n <= 1600])
def test_matrix_is_hadamard(n: int) -> None:
    signs = basis_matrix(n).matrix * math.sqrt(n)
    assert np.allclose(np.abs(signs), 1.0, atol=1e-12)
    rounded = np.rint(signs)
    assert np.array_equal(rounded @ rounded.T, n * np.eye(n))


@pytest.mark.parametrize("n", [n for n in PLANS if n > 1600])
def test_factors_of_large_sizes_are_hadamard(n: int) -> None:
    # A Kronecker product of Hadamard matrices is one.
    for factor in basis_matrix(n).factors:
        assert np.array_equal(np.abs(factor), np.ones_like(factor))
        assert np.array_equal(factor @ factor.T, len(factor) * np.eye(len(factor)))


@pytest.mark.parametrize("n", [4, 64, 128, 512])
def test_powers_of_two_are_in_sylvester_order(n: int) -> None:
    expected = scipy.linalg.hadamard(n) / math.sqrt(n)
    assert np.allclose(basis_matrix(n).matrix, expected, atol=1e-15)


def test_paley_cores_equal_the_published_tables() -> None:
    table = np.array([signs(row) for row in TABLE_12.split()])
    assert np.array_equal(basis_matrix(12).factors[0], table)
    for n, rows in ((28, ROWS_28), (36, ROWS_36)):
        core = basis_matrix(n).factors[0]
        for index, row in rows.items():
            assert core[index].tolist() == signs(row), (n, index)


def test_hidden_size_576_is_block_form_core_times_sylvester() -> None:
    residues = {number * number % 17 for number in range(1, 17)}
    conference = np.ones((18, 18))
    for i in range(18):
        for j in range(18):
            if i and j:
                conference[i, j] = 0.0 if i == j else (1.0 if (i - j) % 17 in residues else -1.0)
    conference[0, 0] = 0.0
    core = np.block(
        [
            [conference + np.eye(18), conference - np.eye(18)],
            [conference - np.eye(18), -conference - np.eye(18)],
        ]
    )
    expected = np.kron(core, scipy.linalg.hadamard(16)) / 24
    assert np.array_equal(basis_matrix(576).matrix, expected)


def test_only_known_multiples_of_64_fall_back() -> None:
    missing = [n for n in range(64, 8193, 64) if not is_hadamard_name(n)]
    assert missing == [2752, 3776, 4672, 6464, 6848, 6976, 7232, 7552, 8128]


def is_hadamard_name(n: int) -> bool:
    # Names are decided before any matrix is built; a basis of this many sizes would be slow.
    from lpsteps.hadamard import _hadamard_orders

    orders = _hadamard_orders(n)
    assert orders is None or math.prod(order for _, order in orders) == n
    return orders is not None


# The machine may be busy: how long an example takes says nothing.
@settings(deadline=None)
@given(
    st.integers(min_value=1, max_value=150),
    st.sampled_from(ANY_BASIS_KINDS),
    st.integers(min_value=0, max_value=3),
)
def test_every_size_gets_an_orthonormal_basis(n: int, kind: str, seed: int) -> None:
    basis = basis_matrix(n, kind, seed=seed)
    assert basis.size == n
    assert np.allclose(basis.matrix @ basis.matrix.T, np.eye(n), atol=1e-12)
    measured = np.abs(basis.matrix).max() * math.sqrt(n)
    assert basis.flatness == pytest.approx(measured, rel=1e-12)


def test_fallback_is_seeded_and_names_its_seed() -> None:
    first, again, other = (
        basis_matrix(46, seed=1),
        basis_matrix(46, seed=1),
        basis_matrix(46, seed=2),
    )
    assert first.name == "random-orthogonal-46-seed-1"
    assert np.array_equal(first.matrix, again.matrix)
    assert not np.allclose(first.matrix, other.matrix)
    assert first.flatness > 1.5


def test_random_orthogonal_can_be_asked_for() -> None:
    basis = basis_matrix(64, "random_orthogonal")
    assert basis.name == "random-orthogonal-64-seed-0"
    assert basis.flatness > 1.5


def test_random_orthogonal_is_uniform() -> None:
    # Without the sign fix the diagonal of Q is biased: every entry has the sign of its pivot.
    diagonals = [np.diag(basis_matrix(6, "random_orthogonal", seed).matrix) for seed in range(300)]
    assert abs(np.mean(np.sign(diagonals))) < 0.1


def test_identity_is_the_channels_themselves() -> None:
    basis = basis_matrix(24, "identity", seed=3)
    assert basis.name == "identity-24"
    assert np.array_equal(basis.matrix, np.eye(24))
    assert basis.flatness == pytest.approx(math.sqrt(24))


@pytest.mark.parametrize("n", [1, 5, 48])
def test_dct_rotates_rows_as_scipy_does(n: int) -> None:
    rows = np.random.default_rng(0).standard_normal((3, n))
    basis = basis_matrix(n, "dct", seed=3)
    assert basis.name == f"dct-ii-{n}"
    expected = scipy.fft.dct(rows, type=2, norm="ortho")
    np.testing.assert_allclose(rows @ basis.matrix, expected, atol=1e-13)


def test_randomised_hadamard_flips_channels_before_it_mixes_them() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 48))
    plain, randomised = basis_matrix(48), basis_matrix(48, "randomised_hadamard", seed=5)
    assert randomised.name == "signs-seed-5 paley-i-12 (x) sylvester-4"
    assert randomised.signs is not None
    assert set(randomised.signs) == {-1.0, 1.0}
    np.testing.assert_allclose(
        rows @ randomised.matrix, (rows * randomised.signs) @ plain.matrix, atol=1e-13
    )
    assert randomised.flatness == pytest.approx(1.0, abs=1e-12)
    again, other = (basis_matrix(48, "randomised_hadamard", seed) for seed in (5, 6))
    assert np.array_equal(randomised.matrix, again.matrix)
    assert not np.array_equal(randomised.matrix, other.matrix)


def test_randomised_hadamard_falls_back_as_hadamard_does() -> None:
    basis = basis_matrix(46, "randomised_hadamard", seed=1)
    assert basis.name == basis_matrix(46, seed=1).name


def test_mistakes_are_named() -> None:
    with pytest.raises(LpstepsError, match="hadamrd: did you mean 'hadamard'"):
        basis_matrix(64, "hadamrd")
    with pytest.raises(LpstepsError, match="n: 0"):
        basis_matrix(0)
