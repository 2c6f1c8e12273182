"""The real default model and data at a reduced size, through the real downloads."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from project import CHECKOUT, copy_checkout, snakemake, write_yaml

REDUCED = "config/reduced.yaml"


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("default") / "project"
    copy_checkout(project)
    profile = yaml.safe_load((CHECKOUT / "config/config.yaml").read_text())
    profile["tables"] = {"table06": {"smollm2-135m": [3]}}
    profile["suites"]["perplexity"]["benchmarks"] = {"novels": 2}
    profile["suites"]["qa"]["benchmarks"] = {"copa": 8, "arc_easy": 8}
    profile["window_length"] = 128
    profile["definitions"].append("config/reduced_text.yaml")
    profile["training_text"] = "reduced"
    text = {
        "fit": [{"corpus": "novels", "split": "calibration", "windows": 64}],
        "heldout": [{"corpus": "novels", "split": "validation", "windows": 8}],
    }
    write_yaml(project / "config/reduced_text.yaml", {"training_texts": {"reduced": text}})
    write_yaml(project / REDUCED, profile)
    return project


@pytest.mark.slow
@pytest.mark.network
def test_real_model_and_data_end_in_a_page_of_sane_numbers(default: Path):
    run = snakemake(default, "reports/tables.html", profile=REDUCED)
    assert run.returncode == 0, run.stdout
    cells = {c["id"]: c for c in json.loads((default / "reports/tables.json").read_text())["cells"]}

    def value(row: str) -> float:
        level = "n0" if row == "dense" else "n3"
        return cells[f"table06/smollm2-135m/{level}/{row}/novels"]["value"]

    assert 20 < value("dense") < value("vanilla") < math.inf
    assert value("dense") < value("linearpatch+ft") < value("linearpatch")
    assert 0 < cells["table06/smollm2-135m/n3/linearpatch/qa_rp"]["value"] < 200
    assert (
        "Nothing to be done"
        in snakemake(default, "-n", "reports/tables.html", profile=REDUCED).stdout
    )


# Repairs that map the stream in front of the cut by a matrix, or by scales or a number, and what each
# is fitted to: the same windows.
MATRICES = [
    *("linearpatch", "linearpatch-per-layer", "channel-scale", "prune-and-comp", "procrustes"),
    *("least-squares-diagonal", "least-squares-ridge", "least-squares-weighted"),
    *("scale-dct", "scale-pca", "scale-random-orthogonal", "scale-randomised-hadamard"),
]
GAP = "results/smollm2-135m/calibration/wikipedia/selection/llm-streamline/n5"


def activations(project: Path, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the dense model at the ends of a cut on all calibration windows, float64."""
    import torch

    from lpsteps.data.window_file import read_windows
    from lpsteps.models.boundaries import watching_boundaries
    from lpsteps.models.causal_attention import use_causal_attention
    from lpsteps.models.loading import load_model

    model = load_model(project / "resources/models/smollm2-135m", torch.float32)
    use_causal_attention(model)
    rows: dict[int, list[Any]] = {start: [], end: []}

    def keep(boundary: int, hidden: torch.Tensor) -> None:
        if boundary in rows:
            rows[boundary].append(hidden.double().flatten(0, 1).cpu().numpy())

    windows = read_windows(project / "results/smollm2-135m/windows/wikipedia/calibration.parquet")
    with torch.no_grad(), watching_boundaries(model, keep):
        for window in torch.from_numpy(windows[:32]):
            model(window[None].to(model.device), use_cache=False)
    return np.concatenate(rows[start]), np.concatenate(rows[end])


@pytest.mark.slow
@pytest.mark.network
def test_no_matrix_repairs_real_activations_better_than_least_squares(default: Path):
    """On the text that all of them are fitted to, with 5 layers removed."""
    from lpsteps.patches import read_patches
    from lpsteps.plan import read_plan

    profile = yaml.safe_load((default / REDUCED).read_text())
    # Sums over the rows below, which are read once more, are then as sharp as those of the steps.
    profile |= {"tables": {"table06": {"smollm2-135m": [5]}}, "dtype": "float32"}
    write_yaml(default / "config/five.yaml", profile)
    names = ["least-squares", *MATRICES]
    manifests = {name: f"{GAP}/{name}/patch.manifest.json" for name in names}
    run = snakemake(default, *manifests.values(), profile="config/five.yaml")
    assert run.returncode == 0, run.stdout

    ((start, end),) = read_plan(default / f"{GAP}/plan.json").gaps
    before, after = activations(default, start, end)
    assert len(before) == 32 * 128 > before.shape[1]
    errors = {"none": float(((before - after) ** 2).sum())}
    for name, manifest in manifests.items():
        patches = read_patches(default / manifest)
        (gap,) = patches.gaps
        rows = before
        for operation in gap.operations:
            weight = operation.weight.astype(np.float64)
            rows = rows * weight if operation.kind in ("scale", "scalar") else rows @ weight
        errors[name] = float(((rows - after) ** 2).sum())
        if "gaps.0.errors" in patches.audit and "weighted" not in name:
            assert errors[name] == pytest.approx(patches.audit["gaps.0.errors"][-1], rel=1e-3)
    least = errors.pop("least-squares")
    for name, error in errors.items():
        # The stored matrix is rounded to float32.
        assert least <= error * (1 + 1e-6), (name, least, error)
    # Sums of squares are those of the massive tokens, which LinearPatch makes worse.
    assert least < 0.9 * min(errors["linearpatch"], errors["none"])


@pytest.mark.slow
@pytest.mark.network
def test_a_wrong_hash_stops_with_one_line_and_leaves_nothing(default: Path, tmp_path: Path):
    project = tmp_path / "project"
    shutil.copytree(
        default, project, ignore=shutil.ignore_patterns("resources", "results", ".snakemake")
    )
    data = project / "config/data.yaml"
    text = data.read_text()
    data.write_text(text.replace("bcc81830d10ce7d9", "bcc81830d10ce7d8"))
    assert data.read_text() != text
    run = snakemake(project, "resources/archives/smollm2/manifest.json", profile=REDUCED)
    assert run.returncode == 1
    errors = [line for line in run.stdout.splitlines() if line.startswith("error: fetch_archive: ")]
    assert len(errors) == 1 and "sha256" in errors[0] and "bcc81830d10ce7d8" in errors[0]
    left = [p for p in (project / "resources").rglob("*") if p.is_file()]
    assert left == []
