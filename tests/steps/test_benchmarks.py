"""The benchmarks run and state what they ran; nothing is said about their speed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import distillation
from lpsteps.artifacts import write_json, write_parquet
from lpsteps.patches import GapPatch, Operation, PatchSet, write_patches
from lpsteps.plan import Plan, write_plan

WINDOWS = np.random.default_rng(0).integers(3, 128, (9, 12))


@pytest.fixture
def given(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> list[str]:
    token_ids = pa.array(WINDOWS.tolist(), pa.list_(pa.int32()))
    write_parquet(tmp_path / "windows.parquet", pa.table({"token_ids": token_ids}))
    write_json(tmp_path / "compute.json", {"schema": 1, "dtype": "float32", "device": "cpu"})
    write_plan(tmp_path / "plan.json", Plan.removing(6, (2, 3)), model="tiny", selection="s")
    matrix = np.eye(48) + 0.3 * np.random.default_rng(1).standard_normal((48, 48))
    start = PatchSet((GapPatch(2, 4, (Operation("matrix", matrix),)),))
    manifest = tmp_path / "patch.manifest.json"
    write_patches(tmp_path / "patch.safetensors", manifest, start, recovery="start")
    return [
        f"--model={tiny_model_folder('llama')}",
        f"--compute={tmp_path / 'compute.json'}",
        f"--plan={tmp_path / 'plan.json'}",
        f"--patch={manifest}",
        f"--windows={tmp_path / 'windows.parquet'}",
        "--repetitions=1",
        "--top-k=10",
    ]


def test_distillation(tmp_path: Path, given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "peak_memory_of", lambda *_: 1)
    arguments = distillation._parser().parse_args(given)
    arguments.teacher = distillation.store_targets(arguments, tmp_path)
    result = distillation.measured(arguments, given)
    assert result["settings"]["gap"] == [2, 4]
    assert set(result["tokens_per_second"]) == set(distillation.NAMES)
    assert result["bare_forwards"]["bare forward"] == 1.0
    # Layers 4 and 5 of 6, forward and twice backward at most, and little beside them.
    bounds = result["arithmetic_bound_bare_forwards"]
    assert 2 * 2 / 6 < bounds[distillation.OFFLINE_EPOCH] < 3 * 2 / 6 + 0.2
    assert bounds[distillation.FUSED] - bounds[distillation.OFFLINE_EPOCH] > 1


def test_all_procedures_of_distillation_have_the_same_loss(
    tmp_path: Path, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = distillation._parser().parse_args([*given, "--count=1"])
    arguments.teacher = distillation.store_targets(arguments, tmp_path)
    bench = distillation.Bench(arguments)
    losses: dict[str, float] = {}
    backward = distillation.torch.Tensor.backward
    for name in distillation.NAMES[1:]:
        run = bench.contender(name)

        def keep(loss: distillation.torch.Tensor, name: str = name) -> None:
            losses[name] = loss.item()
            backward(loss)

        monkeypatch.setattr(distillation.torch.Tensor, "backward", keep)
        run()
    assert set(losses) == set(distillation.NAMES[1:])
    # The official procedure keeps probabilities as float16.
    for name, loss in losses.items():
        assert loss == pytest.approx(losses[distillation.FUSED], rel=5e-3), name
    assert losses[distillation.FUSED] > 0.001
