"""The build_patch step, run as a program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lpsteps.artifacts import read_json, write_json
from lpsteps.hadamard import basis_matrix
from lpsteps.patches import read_patches
from lpsteps.plan import Plan, write_plan
from lpsteps.provenance import read_record
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


def test_hidden_size_of_a_model_with_several_parts(tmp_path: Path, arguments: list[str]) -> None:
    write_json(tmp_path / "config.json", {"text_config": {"hidden_size": HIDDEN_SIZE}})
    stats = f"--stats={tmp_path / 'stats.parquet'}"
    assert main([*arguments, stats, _spec("linearpatch")]) == 0


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
    write_json(tmp_path / "config.json", {"n_embd": HIDDEN_SIZE})
    assert main([*arguments, _spec("none")]) == 1
    assert "config.json: hidden_size: None: must be an integer" in capsys.readouterr().err


def test_tensors_lie_beside_their_manifest(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = f"--patch={tmp_path / 'other.safetensors'}"
    assert main([*arguments, elsewhere, _spec("none")]) == 1
    assert "beside its manifest" in capsys.readouterr().err
