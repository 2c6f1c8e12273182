"""The build_patch step, run as a program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import BaseModel

from lpsteps.artifacts import read_json, write_json, write_parquet
from lpsteps.errors import LpstepsError
from lpsteps.hadamard import basis_matrix
from lpsteps.moments import GapMoments, Moments, MomentsKind, write_moments
from lpsteps.patches import PatchSet, read_patches
from lpsteps.plan import Plan, write_plan
from lpsteps.provenance import read_record
from lpsteps.recovery.base import RecoveryContext
from lpsteps.statistics import SampleStatistics, StatisticsWriter
from lpsteps.steps.build_patch import main

N_LAYERS = 6
HIDDEN_SIZE = 12
MEANS = np.random.default_rng(0).uniform(0.5, 2.0, (2, 2, N_LAYERS + 1, HIDDEN_SIZE))


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    with StatisticsWriter(
        tmp_path / "stats.parquet",
        n_layers=N_LAYERS,
        hidden_size=HIDDEN_SIZE,
        basis_name=basis_matrix(HIDDEN_SIZE).name,
        model="tiny",
    ) as writer:
        for identity, hadamard in MEANS:
            means = {"identity": identity, "hadamard": hadamard}
            writer.append(SampleStatistics(8, means, np.ones((N_LAYERS + 1, N_LAYERS + 1))))
    plan = Plan.removing(N_LAYERS, (4, 1, 5))
    write_plan(tmp_path / "plan.json", plan, model="tiny", selection="sleb")
    write_json(tmp_path / "manifest.json", {"files": {}})
    write_json(tmp_path / "config.json", {"hidden_size": HIDDEN_SIZE})
    return [
        f"--plan={tmp_path / 'plan.json'}",
        f"--model={tmp_path / 'manifest.json'}",
        f"--patch={tmp_path / 'patch.safetensors'}",
        f"--manifest={tmp_path / 'patch.manifest.json'}",
        f"--log={tmp_path / 'log.txt'}",
    ]


class Params(BaseModel):
    """Parameters of a method that decide on what it reads."""

    needs: frozenset[str] = frozenset()


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[RecoveryContext]:
    """What each run of a method without patches was given; the method is called `observer`."""
    seen: list[RecoveryContext] = []

    def build(context: RecoveryContext, params: Params) -> PatchSet:
        seen.append(context)
        return PatchSet()

    method = SimpleNamespace(Params=Params, needs=lambda params: params.needs, build=build)
    monkeypatch.setattr("lpsteps.steps.build_patch.recovery_method", {"observer": method}.get)
    return seen


def _moments(folder: Path, kind: MomentsKind) -> Path:
    """Write moments of the plan's gaps and return their manifest."""
    generator = np.random.default_rng(1)
    parts = []
    for _ in range(4):
        rows = generator.normal(size=(2, 30, HIDDEN_SIZE))
        source, target = rows
        products = (source.T @ source, source.T @ target, float((target**2).sum()))
        parts.append(Moments(30.0, *products, source.sum(axis=0), target.sum(axis=0)))
    moments = [GapMoments(1, 2, *parts[:2]), GapMoments(4, 6, *parts[2:])]
    folder.mkdir(exist_ok=True)
    manifest = folder / f"{kind}.manifest.json"
    write_moments(folder / f"{kind}.safetensors", manifest, moments, kind=kind)
    return manifest


def _spec(method: str, **params: Any) -> str:
    return f"--spec={json.dumps({'recovery': 'mine', 'method': method, 'params': params})}"


def test_channel_scale(tmp_path: Path, arguments: list[str]) -> None:
    stats = f"--stats={tmp_path / 'stats.parquet'}"
    assert main([*arguments, stats, _spec("channel_scale")]) == 0
    patches = read_patches(tmp_path / "patch.manifest.json")
    assert [(gap.start, gap.end) for gap in patches.gaps] == [(1, 2), (4, 6)]
    identity = MEANS[:, 0]
    for gap in patches.gaps:
        (operation,) = gap.operations
        expected = (identity[:, gap.end] / identity[:, gap.start]).mean(axis=0)
        np.testing.assert_allclose(operation.weight, expected, rtol=1e-6)
    manifest = read_json(tmp_path / "patch.manifest.json")
    assert (manifest["recovery"], manifest["parameters"]) == ("mine", 2 * HIDDEN_SIZE)


def test_linearpatch(tmp_path: Path, arguments: list[str]) -> None:
    stats = f"--stats={tmp_path / 'stats.parquet'}"
    assert main([*arguments, stats, _spec("linearpatch", grouping="per_layer")]) == 0
    patches = read_patches(tmp_path / "patch.manifest.json")
    assert [len(gap.operations) for gap in patches.gaps] == [1, 2]
    assert patches.parameters == 3 * HIDDEN_SIZE**2
    basis, hadamard = basis_matrix(HIDDEN_SIZE).matrix, MEANS[:, 1]
    ratios = (hadamard[:, 6] / hadamard[:, 5]).mean(axis=0)
    np.testing.assert_allclose(
        patches.gaps[1].operations[1].weight, basis @ np.diag(ratios) @ basis.T, atol=1e-6
    )
    np.testing.assert_allclose(patches.audit["gaps.1.operations.1.d"], ratios, rtol=1e-14)
    record = read_record(tmp_path / "patch.manifest.json")
    assert record["notes"]["added_parameters"] == 3 * HIDDEN_SIZE**2
    inputs = {Path(entry["path"]).name for entry in record["inputs"]}
    assert inputs == {"stats.parquet", "plan.json", "manifest.json", "config.json"}


def test_none_needs_no_statistics(tmp_path: Path, arguments: list[str]) -> None:
    assert main([*arguments, _spec("none")]) == 0
    assert read_patches(tmp_path / "patch.manifest.json").gaps == ()


@pytest.mark.parametrize("kind", ["stream", "weighted-stream"])
def test_moments_reach_the_method(
    tmp_path: Path, arguments: list[str], contexts: list[RecoveryContext], kind: MomentsKind
) -> None:
    manifest = _moments(tmp_path / "moments", kind)
    needs = [f"{kind}-moments"]
    assert main([*arguments, f"--moments={manifest}", _spec("observer", needs=needs)]) == 0
    (context,) = contexts
    assert context.model is None
    assert context.statistics is None
    moments = context.needed_moments()
    assert [(gap.start, gap.end) for gap in moments] == [(1, 2), (4, 6)]
    source = np.random.default_rng(1).normal(size=(2, 30, HIDDEN_SIZE))[0]
    np.testing.assert_array_equal(moments[0].fit.source_sum, source.sum(axis=0))
    record = read_record(tmp_path / "patch.manifest.json")
    inputs = {Path(entry["path"]).name for entry in record["inputs"]}
    assert inputs >= {f"{kind}.manifest.json", f"{kind}.safetensors"}


def test_moments_of_another_kind_are_refused(
    tmp_path: Path,
    arguments: list[str],
    contexts: list[RecoveryContext],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "moments"
    manifest = _moments(folder, "stream")
    (folder / "branch.safetensors").write_bytes((folder / "stream.safetensors").read_bytes())
    spec = _spec("observer", needs=["branch-moments"])
    assert main([*arguments, f"--moments={manifest}", spec]) == 1
    assert "stream.manifest.json: kind: stream: must be branch" in capsys.readouterr().err


def test_the_model_and_the_seed_reach_the_method(
    tmp_path: Path,
    arguments: list[str],
    contexts: list[RecoveryContext],
    tiny_model_folder: Callable[..., Path],
) -> None:
    token_ids = [[5, 6, 7], [8, 9, 10]]
    column = pa.array(token_ids, pa.list_(pa.int32()))
    write_parquet(tmp_path / "windows.parquet", pa.table({"window": [0, 1], "token_ids": column}))
    write_json(tmp_path / "compute.json", {"schema": 1, "dtype": "bfloat16", "device": "cpu"})
    manifest = tiny_model_folder("llama")
    files = [f"--windows={tmp_path / 'windows.parquet'}", f"--compute={tmp_path / 'compute.json'}"]
    spec = {"recovery": "mine", "method": "observer", "params": {"needs": ["model"]}, "seed": 7}
    spec["bos_in_windows"] = True
    options = [*arguments, f"--model={manifest}", *files, f"--spec={json.dumps(spec)}"]
    assert main(options) == 0
    (context,) = contexts
    assert (context.seed, context.bos_in_windows) == (7, True)
    assert context.hidden_size == 48
    source = context.needed_model()
    assert source.windows.tolist() == token_ids
    model = source.load()
    assert str(model.dtype) == "torch.bfloat16"
    assert model.config.num_hidden_layers == 6
    record = read_record(tmp_path / "patch.manifest.json")
    assert record["notes"]["seed"] == 7
    assert record["notes"]["dtype"] == "bfloat16"
    assert record["notes"]["device"] == "cpu"
    assert record["notes"]["threads"] > 0
    inputs = {Path(entry["path"]).name for entry in record["inputs"]}
    assert inputs >= {"windows.parquet", "compute.json", "model.safetensors"}


def test_excluded_tokens_are_left_out_or_refused(
    tmp_path: Path,
    arguments: list[str],
    contexts: list[RecoveryContext],
    tiny_model_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    token_ids = pa.array([[5, 6, 7], [8, 9, 10]], pa.list_(pa.int32()))
    write_parquet(tmp_path / "windows.parquet", pa.table({"token_ids": token_ids}))
    write_json(tmp_path / "compute.json", {"schema": 1, "dtype": "float32", "device": "cpu"})
    files = [f"--windows={tmp_path / 'windows.parquet'}", f"--compute={tmp_path / 'compute.json'}"]
    options = [*arguments, f"--model={tiny_model_folder('llama')}", *files]
    spec = {"recovery": "mine", "windows": 2, "exclude_first": 1}
    observer = {**spec, "method": "observer", "params": {"needs": ["model"]}}
    assert main([*options, f"--spec={json.dumps(observer)}"]) == 0
    (context,) = contexts
    assert not context.bos_in_windows
    source = context.needed_model()
    assert (source.text.tolist(), source.exclude_first) == ([[5, 6, 7], [8, 9, 10]], 1)

    monkeypatch.undo()
    (tmp_path / "patch.safetensors").unlink()
    capsys.readouterr()
    assert main([*options, f"--spec={json.dumps({**spec, 'method': 'rotated_scale'})}"]) == 1
    error = capsys.readouterr().err
    assert "calibration: exclude_first: 1: this method counts every token" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "patch.safetensors").exists()


def test_what_a_method_does_not_need_is_not_read(
    tmp_path: Path, arguments: list[str], contexts: list[RecoveryContext]
) -> None:
    files = [f"--{name}={tmp_path}/absent" for name in ("stats", "moments", "windows", "compute")]
    assert main([*arguments, *files, _spec("observer")]) == 0
    (context,) = contexts
    assert (context.statistics, context.moments, context.model) == (None, None, None)


def test_what_a_method_needs_is_asked_for(
    arguments: list[str], contexts: list[RecoveryContext]
) -> None:
    needs = ["statistics", "stream-moments", "model"]
    assert main([*arguments, _spec("observer", needs=needs)]) == 0
    (context,) = contexts
    with pytest.raises(LpstepsError, match="--stats: required by this recovery"):
        context.needed_statistics()
    with pytest.raises(LpstepsError, match="--moments: required by this recovery"):
        context.needed_moments()
    with pytest.raises(LpstepsError, match="--windows and --compute: required by this recovery"):
        context.needed_model()


def test_second_run_gives_the_same_bytes(tmp_path: Path, arguments: list[str]) -> None:
    stats = f"--stats={tmp_path / 'stats.parquet'}"
    contents = []
    for _ in range(2):
        assert main([*arguments, stats, _spec("linearpatch")]) == 0
        contents.append(
            [(tmp_path / f"patch.{end}").read_bytes() for end in ("safetensors", "manifest.json")]
        )
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (_spec("linearpach"), "did you mean 'linearpatch'"),
        (_spec("linearpatch", group="per_gap"), "mine: params: group: unknown key"),
        (_spec("linearpatch", basis="dct"), "params: basis: 'dct': "),
        (_spec("linearpatch"), "--stats: required by this recovery"),
        (
            '--spec={"method": "none", "recovery": "none", "metod": 1}',
            "metod: unknown key, did you mean 'method'",
        ),
    ],
)
def test_mistakes_give_one_line_and_no_output(
    tmp_path: Path,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    spec: str,
    message: str,
) -> None:
    assert main([*arguments, spec]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "patch.safetensors").exists()
    assert not (tmp_path / "patch.manifest.json").exists()


def test_a_model_without_hidden_size_is_named(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "config.json", {"width": HIDDEN_SIZE})
    assert main([*arguments, _spec("none")]) == 1
    assert "config.json: hidden_size: None: must be an integer" in capsys.readouterr().err


def test_tensors_lie_beside_their_manifest(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = f"--patch={tmp_path / 'other.safetensors'}"
    assert main([*arguments, elsewhere, _spec("none")]) == 1
    assert "beside its manifest" in capsys.readouterr().err
