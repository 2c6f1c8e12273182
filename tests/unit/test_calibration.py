"""The streaming pass against a slow float64 reference that keeps every hidden state."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lpsteps import calibration
from lpsteps.calibration import Rotation, stream_statistics
from lpsteps.errors import LpstepsError
from lpsteps.hadamard import Basis, basis_matrix
from lpsteps.models.layers import decoder_of
from lpsteps.statistics import SampleStatistics

LENGTH = 21
CPU = torch.device("cpu")


def random_windows(count: int = 3, length: int = LENGTH) -> npt.NDArray[np.int64]:
    return np.random.default_rng(7).integers(2, 128, (count, length))


def all_boundaries(model: Any, window: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return `[n_layers + 1, tokens, hidden_size]`, from hooks of the test's own on the outputs."""
    decoder = decoder_of(model)
    states: list[npt.NDArray[np.float64]] = []

    def keep(module: Any, positional: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        states.append(tensor[0].double().numpy())

    def keep_first(module: Any, positional: Any, named: Any) -> None:
        tensor = positional[0] if positional else named["hidden_states"]
        states.append(tensor[0].double().numpy())

    handles = [decoder.layers[0].register_forward_pre_hook(keep_first, with_kwargs=True)]
    handles += [layer.register_forward_hook(keep) for layer in decoder.layers]
    with torch.no_grad():
        model(torch.tensor(window[None]))
    for handle in handles:
        handle.remove()
    return np.stack(states)


def cosine_of(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    norms = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / norms) if norms > 0 else 0.0


def check(
    sample: SampleStatistics,
    model: Any,
    window: npt.NDArray[np.int64],
    basis: Basis,
    exclude_first: int = 0,
) -> None:
    """Compare a sample with loops over all pairs of boundaries, tokens and channels."""
    states = all_boundaries(model, window)[:, exclude_first:]
    boundaries, tokens, channels = states.shape
    cosine, last, along = (np.zeros((boundaries, boundaries)) for _ in range(3))
    for i in range(boundaries):
        for j in range(boundaries):
            x, y = states[i], states[j]
            cosine[i, j] = np.mean([cosine_of(x[t], y[t]) for t in range(tokens)])
            last[i, j] = cosine_of(x[-1], y[-1])
            along[i, j] = np.mean([cosine_of(x[:, k], y[:, k]) for k in range(channels)])
    assert sample.tokens == tokens
    assert list(sample.mean_absolute) == ["identity", "hadamard"]
    for name, rows in (("identity", states), ("hadamard", states @ basis.matrix)):
        expected = np.abs(rows).mean(axis=1)
        np.testing.assert_allclose(sample.mean_absolute[name], expected, rtol=1e-5)
    np.testing.assert_allclose(sample.cosine, cosine, atol=1e-5)
    np.testing.assert_allclose(sample.last_token_cosine, last, atol=1e-6)
    np.testing.assert_allclose(sample.token_axis_cosine, along, atol=1e-5)


def collect(model: Any, windows: npt.NDArray[np.int64], **options: Any) -> list[SampleStatistics]:
    return list(stream_statistics(model, windows, basis_matrix(48), **options))


@pytest.mark.parametrize(("batch", "exclude_first"), [(1, 0), (2, 0), (3, 4)])
def test_equal_to_the_slow_reference(
    tiny_llama: Any, monkeypatch: pytest.MonkeyPatch, batch: int, exclude_first: int
) -> None:
    monkeypatch.setattr(calibration, "_TOKEN_BLOCK", 8)  # several blocks, the last one shorter
    basis = basis_matrix(48)
    windows = random_windows()
    samples = collect(tiny_llama, windows, batch=batch, exclude_first=exclude_first)
    assert len(samples) == len(windows)
    for window, sample in zip(windows, samples, strict=True):
        check(sample, tiny_llama, window, basis, exclude_first)


def test_every_family(tiny_model: Any, family: str) -> None:
    model = tiny_model(family, layers=3)
    window = random_windows(1)
    (sample,) = collect(model, window)
    check(sample, model, window[0], basis_matrix(48))


def test_a_silent_channel_has_cosine_zero(tiny_llama: Any) -> None:
    decoder = decoder_of(tiny_llama)
    with torch.no_grad():
        tiny_llama.get_input_embeddings().weight[:, 5] = 0.0
        for layer in decoder.layers[:2]:
            layer.self_attn.o_proj.weight[5] = 0.0
            layer.mlp.down_proj.weight[5] = 0.0
    window = random_windows(1)
    (sample,) = collect(tiny_llama, window)
    assert (sample.mean_absolute["identity"][:3, 5] == 0.0).all()
    check(sample, tiny_llama, window[0], basis_matrix(48))


def test_last_boundary_is_taken_before_the_final_norm(tiny_llama: Any) -> None:
    window = random_windows(1)
    (before,) = collect(tiny_llama, window)
    with torch.no_grad():
        decoder_of(tiny_llama).norm.weight.mul_(3.0)
    (after,) = collect(tiny_llama, window)
    assert np.array_equal(before.mean_absolute["identity"][-1], after.mean_absolute["identity"][-1])


def test_windows_do_not_influence_one_another(tiny_llama: Any) -> None:
    windows = random_windows(5)
    together = collect(tiny_llama, windows, batch=2)
    for window, sample in zip(windows, together, strict=True):
        (alone,) = collect(tiny_llama, window[None])
        np.testing.assert_allclose(sample.cosine, alone.cosine, atol=1e-6)
        np.testing.assert_allclose(sample.token_axis_cosine, alone.token_axis_cosine, atol=1e-6)
        np.testing.assert_allclose(
            sample.mean_absolute["hadamard"], alone.mean_absolute["hadamard"], rtol=1e-5
        )


def test_bfloat16_activations_are_summed_in_full_precision(tiny_model: Any) -> None:
    model = tiny_model("llama").bfloat16()
    window = random_windows(1, 64)
    (sample,) = collect(model, window)
    check(sample, model, window[0], basis_matrix(48))


@given(
    n=st.sampled_from([1, 2, 48, 64, 96, 128, 144, 256, 576, 46]),
    rows=st.integers(min_value=1, max_value=5),
    seed=st.integers(min_value=0, max_value=1000),
)
def test_factored_rotation_equals_the_dense_product(n: int, rows: int, seed: int) -> None:
    basis = basis_matrix(n)
    values = np.random.default_rng(seed).standard_normal((2, rows, n))
    rotated = Rotation(basis, CPU)(torch.tensor(values, dtype=torch.float32))
    np.testing.assert_allclose(rotated.double().numpy(), values @ basis.matrix, atol=1e-5)


def test_rotation_with_two_cores_and_unequal_factors() -> None:
    generator = np.random.default_rng(0)
    factors = tuple(generator.standard_normal((n, n)) for n in (3, 5, 2))
    basis = Basis("any", factors, 2.0)
    values = generator.standard_normal((4, 30))
    rotated = Rotation(basis, CPU)(torch.tensor(values, dtype=torch.float32))
    np.testing.assert_allclose(
        rotated.double().numpy(), values @ basis.matrix, rtol=1e-4, atol=1e-5
    )


def test_mistakes_are_named(tiny_llama: Any) -> None:
    with pytest.raises(LpstepsError, match=r"exclude_first: 21: must lie in 0 to 20"):
        collect(tiny_llama, random_windows(), exclude_first=LENGTH)
    with pytest.raises(LpstepsError, match="to 128: the model's vocabulary has"):
        collect(tiny_llama, np.full((1, 4), 128))
    with torch.no_grad():
        decoder_of(tiny_llama).layers[2].mlp.down_proj.weight.fill_(1e38)
    with pytest.raises(LpstepsError, match=r"windows: 0: activations are not finite in float32"):
        collect(tiny_llama, random_windows())
