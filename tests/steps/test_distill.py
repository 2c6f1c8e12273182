"""The distill step, run as a program, and killed as one."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lpsteps.artifacts import read_json, write_json, write_parquet
from lpsteps.distillation import split_model
from lpsteps.distillation.distiller import Distiller
from lpsteps.models.loading import load_model
from lpsteps.models.surgery import apply_plan
from lpsteps.patches import GapPatch, Operation, PatchSet, read_patches, write_patches
from lpsteps.plan import Plan, write_plan
from lpsteps.program import StepRun
from lpsteps.provenance import read_record
from lpsteps.steps import store_teacher
from lpsteps.steps.distill import main

LENGTH = 10
FIT = np.random.default_rng(0).integers(3, 30, (7, LENGTH))
HELDOUT = np.random.default_rng(1).integers(3, 30, (3, LENGTH))
PLAN = Plan.removing(6, (2, 3))
SETTINGS: dict[str, Any] = {
    "top_k": 20,
    "epochs": 3,
    "batch": 2,
    "learning_rate": 1e-2,
    "evaluations": 2,
    "checkpoint_every": 2,
}
# Batches of 2, 2, 2 and 1 in each of three epochs.
STEPS = 12


@pytest.fixture
def arguments(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> list[str]:
    """A command line without spec and outputs."""
    write_json(tmp_path / "compute.json", {"dtype": "float32", "device": "cpu"})
    write_plan(tmp_path / "plan.json", PLAN, model="tiny", selection="listed")
    start = PatchSet((GapPatch(2, 4, (Operation("scale", np.linspace(0.8, 1.3, 48)),)),))
    files = [tmp_path / f"patch.{end}" for end in ("safetensors", "manifest.json")]
    write_patches(*files, start, recovery="start")
    for name, tokens in (("fit", FIT), ("heldout", HELDOUT)):
        column = pa.array(tokens.tolist(), pa.list_(pa.int32()))
        write_parquet(tmp_path / f"{name}.parquet", pa.table({"token_ids": column}))
    return [
        f"--plan={tmp_path / 'plan.json'}",
        f"--start={tmp_path / 'patch.manifest.json'}",
        f"--model={tiny_model_folder('llama')}",
        f"--compute={tmp_path / 'compute.json'}",
        f"--fit=corpus={tmp_path / 'fit.parquet'}",
    ]


def _options(arguments: list[str], folder: Path, **settings: Any) -> list[str]:
    """The whole command line of a run into a folder."""
    spec = {
        "recovery": "trained",
        "start": "linearpatch",
        "distillation": "kl",
        "settings": {**SETTINGS, "mode": "fused", **settings},
        "fit": [None],
        "heldout": [2],
        "seed": 4,
    }
    return [
        *arguments,
        f"--heldout=corpus={folder.parent / 'heldout.parquet'}",
        f"--patch={folder / 'patch.safetensors'}",
        f"--manifest={folder / 'patch.manifest.json'}",
        f"--training={folder / 'training.parquet'}",
        f"--log={folder / 'log.txt'}",
        f"--spec={json.dumps(spec)}",
    ]


def _outputs(folder: Path) -> dict[str, bytes]:
    names = ("patch.safetensors", "patch.manifest.json", "training.parquet")
    return {name: (folder / name).read_bytes() for name in names}


def _store(arguments: list[str], tmp_path: Path) -> str:
    """Store the teacher's targets and return the option that names them."""
    spec = {"settings": {"top_k": 20}, "fit": [None], "seed": 4}
    manifest = tmp_path / "teacher" / "manifest.json"
    options = [*arguments, f"--manifest={manifest}", f"--spec={json.dumps(spec)}"]
    assert store_teacher.main(options) == 0
    return f"--teacher={manifest}"


def _heldout_kl(tmp_path: Path, patches: PatchSet) -> float:
    """The divergence of whole models, written out."""
    dense, pruned = (load_model(tmp_path / "models" / "llama", torch.float32) for _ in range(2))
    apply_plan(pruned, PLAN, patches)
    with torch.no_grad():
        teacher, student = (
            model(torch.from_numpy(HELDOUT[:2]), use_cache=False).logits.log_softmax(-1)
            for model in (dense, pruned)
        )
    return float((teacher.exp() * (teacher - student)).sum(-1).mean())


def test_training_lowers_the_divergence_and_the_best_state_is_written(
    tmp_path: Path, arguments: list[str]
) -> None:
    folder = tmp_path / "trained"
    assert main(_options(arguments, folder)) == 0
    table = pq.read_table(folder / "training.parquet").to_pydict()
    assert table["step"] == list(range(STEPS + 1))
    assert table["epoch"] == [0, *[1] * 4, *[2] * 4, *[3] * 4]
    tokens = [0, 20, 40, 60, 70, 90, 110, 130, 140, 160, 180, 200, 210]
    assert table["tokens"] == tokens
    cosine = [5e-4 + 9.5e-3 * (1 + math.cos(math.pi * step / STEPS)) / 2 for step in range(STEPS)]
    assert table["learning_rate"][0] is None
    np.testing.assert_allclose(table["learning_rate"][1:], cosine)
    assert table["fit_loss"][0] is None
    measured = {step for step, value in enumerate(table["heldout_kl"]) if value is not None}
    assert measured == {0, 2, 4, 6, 8, 10, 12}
    heldout = {step: table["heldout_kl"][step] for step in measured}
    best = min(heldout.values())
    assert best < 0.95 * heldout[0]
    patches = read_patches(folder / "patch.manifest.json")
    assert [operation.kind for operation in patches.gaps[0].operations] == ["matrix"]
    assert _heldout_kl(tmp_path, patches) == pytest.approx(best, rel=1e-4)
    start = read_patches(tmp_path / "patch.manifest.json")
    assert _heldout_kl(tmp_path, start) == pytest.approx(heldout[0], rel=1e-4)

    record = read_record(folder / "patch.manifest.json")
    notes = record["notes"]
    assert (notes["mode"], notes["steps"], notes["tokens"]) == ("fused", STEPS, 210)
    assert heldout[notes["best_step"]] == best
    assert (notes["dtype"], notes["device"], notes["seed"]) == ("float32", "cpu", 4)
    assert (notes["added_parameters"], notes["resumed_from_step"]) == (48 * 48, 0)
    inputs = {Path(entry["path"]).name for entry in record["inputs"]}
    assert inputs >= {"heldout.parquet", "fit.parquet", "patch.safetensors", "model.safetensors"}
    assert read_json(folder / "patch.manifest.json")["recovery"] == "trained"
    assert not (folder / ".distillation").exists()


def test_stored_targets_give_the_same_curve(tmp_path: Path, arguments: list[str]) -> None:
    teacher = _store(arguments, tmp_path)
    assert main(_options(arguments, tmp_path / "fused")) == 0
    assert main([*_options(arguments, tmp_path / "offline", mode="offline"), teacher]) == 0
    fused, offline = (
        pq.read_table(tmp_path / mode / "training.parquet") for mode in ("fused", "offline")
    )
    for column in ("step", "epoch", "tokens", "learning_rate"):
        assert fused[column].equals(offline[column])
    for column in ("fit_loss", "heldout_kl"):
        pairs = zip(fused[column].to_pylist(), offline[column].to_pylist(), strict=True)
        for one, other in pairs:
            assert one == other is None or one == pytest.approx(other, abs=1e-6)
    record = read_record(tmp_path / "offline" / "patch.manifest.json")
    assert record["notes"]["mode"] == "offline"
    inputs = {Path(entry["path"]).name for entry in record["inputs"]}
    assert "shard-00000.safetensors" in inputs


@pytest.mark.parametrize("mode", ["fused", "offline"])
def test_interrupted_at_some_steps_a_run_ends_in_the_same_bytes(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    teacher = [_store(arguments, tmp_path)] if mode == "offline" else []
    assert main([*_options(arguments, tmp_path / "whole", mode=mode), *teacher]) == 0
    options = [*_options(arguments, tmp_path / "broken", mode=mode), *teacher]
    method = "fused_loss" if mode == "fused" else "stored_loss"
    original = getattr(Distiller, method)
    calls: list[int] = []
    deadline: list[int] = []

    def loss(self: Distiller, *inputs: Any) -> torch.Tensor:
        calls.append(0)
        if calls == deadline:
            raise KeyboardInterrupt
        return original(self, *inputs)

    monkeypatch.setattr(Distiller, method, loss)
    for fatal in (1, 4, 3, 7):
        calls.clear()
        deadline[:] = [0] * fatal
        assert main(options) == 130
        assert not (tmp_path / "broken" / "patch.safetensors").exists()
    deadline.clear()
    assert main(options) == 0
    assert _outputs(tmp_path / "broken") == _outputs(tmp_path / "whole")
    # Checkpoints at 2, 4 and 10 steps.
    notes = read_record(tmp_path / "broken" / "patch.manifest.json")["notes"]
    assert notes["resumed_from_step"] == 10
    assert not (tmp_path / "broken" / ".distillation").exists()


# Kills itself, so that the moment is always the same: after 23 losses, at no checkpoint.
KILLED = """
import os, signal, sys
from lpsteps.distillation import split_model
from lpsteps.distillation.distiller import Distiller
from lpsteps.steps.distill import main
original, calls = Distiller.fused_loss, []
def loss(self, tokens):
    calls.append(0)
    if len(calls) > 23:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, tokens)
Distiller.fused_loss = loss
main(sys.argv[1:])
"""


def test_a_killed_process_leaves_nothing_but_its_checkpoint_and_goes_on_from_it(
    tmp_path: Path, arguments: list[str]
) -> None:
    settings = {"epochs": 8, "checkpoint_every": 5}
    assert main(_options(arguments, tmp_path / "whole", **settings)) == 0
    options = _options(arguments, tmp_path / "killed", **settings)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", KILLED, *options]
    killed = subprocess.run(command, check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {".distillation", "log.txt"}
    assert main(options) == 0
    assert _outputs(tmp_path / "killed") == _outputs(tmp_path / "whole")
    notes = read_record(tmp_path / "killed" / "patch.manifest.json")["notes"]
    assert (notes["steps"], notes["resumed_from_step"]) == (32, 20)


def test_a_checkpoint_is_of_no_use_to_another_run(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "trained"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    # All work is done, but no output has its name yet.
    monkeypatch.setattr(StepRun, "commit", interrupt)
    assert main(_options(arguments, folder)) == 130
    monkeypatch.undo()
    assert (folder / ".distillation" / "checkpoint.safetensors").exists()
    # The same settings on another held-out text.
    column = pa.array(HELDOUT[::-1].tolist(), pa.list_(pa.int32()))
    write_parquet(tmp_path / "heldout.parquet", pa.table({"token_ids": column}))
    assert main(_options(arguments, folder)) == 0
    assert "of another run; starting over" in (folder / "log.txt").read_text()
    notes = read_record(folder / "patch.manifest.json")["notes"]
    assert notes["resumed_from_step"] == 0


def test_a_loss_that_is_not_finite_stops_with_step_loss_and_checkpoint(
    tmp_path: Path,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = Distiller.fused_loss
    calls: list[int] = []

    def loss(self: Distiller, tokens: torch.Tensor) -> torch.Tensor:
        calls.append(0)
        return original(self, tokens) * (math.nan if len(calls) == 6 else 1.0)

    monkeypatch.setattr(Distiller, "fused_loss", loss)
    folder = tmp_path / "trained"
    assert main(_options(arguments, folder)) == 1
    error = capsys.readouterr().err
    assert f"step 5 of {STEPS}: the loss is nan; the last good checkpoint, of step 4, is " in error
    assert error.count("\n") == 1
    assert (folder / ".distillation" / "checkpoint.safetensors").exists()
    assert not (folder / "patch.safetensors").exists()


def test_early_stopping_shortens_the_curve(tmp_path: Path, arguments: list[str]) -> None:
    folder = tmp_path / "trained"
    # Every step leaps so far that nothing after it is better.
    settings = {"learning_rate": 10.0, "patience": 1}
    assert main(_options(arguments, folder, **settings)) == 0
    table = pq.read_table(folder / "training.parquet").to_pydict()
    assert table["step"] == [0, 1, 2]
    notes = read_record(folder / "patch.manifest.json")["notes"]
    assert (notes["steps"], notes["best_step"], notes["tokens"]) == (2, 0, 40)
    patches = read_patches(folder / "patch.manifest.json")
    np.testing.assert_allclose(
        patches.gaps[0].operations[0].weight, np.diag(np.linspace(0.8, 1.3, 48)), atol=1e-7
    )


def test_settings_reach_the_training(tmp_path: Path, arguments: list[str]) -> None:
    patches = []
    changes: list[dict[str, Any]] = [
        {},
        {"weight_decay": 0.5},
        {"weight_decay": 0.5, "decay_towards": "start"},
        {"clip": 1e-3},
        {"final_learning_rate_share": 1.0},
        {"windows": 4},
        {"objective": "feature_mse"},
        {"tail": True},
        {"batch": 4},
        {"parametrisation": "symmetric"},
        {"parametrisation": "own"},
        {"parametrisation": "low_rank"},
        {"parametrisation": "low_rank", "rank": 3},
    ]
    for number, change in enumerate(changes):
        folder = tmp_path / str(number)
        assert main(_options(arguments, folder, epochs=1, **change)) == 0
        patches.append(_outputs(folder)["patch.safetensors"])
    assert len(set(patches)) == len(patches)
    last = read_patches(tmp_path / f"{len(changes) - 1}" / "patch.manifest.json")
    assert last.parameters == 48 + 2 * 3 * 48


def test_settings_of_the_memory_reach_the_passes(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They change how the gradient is computed, and not what it is."""
    sequences: list[int] = []
    recomputed: list[int] = []
    loss, checkpoint = Distiller.fused_loss, split_model.checkpoint

    def fused_loss(self: Distiller, tokens: torch.Tensor) -> torch.Tensor:
        sequences.append(len(tokens))
        return loss(self, tokens)

    def checkpointed(*inputs: Any, **options: Any) -> Any:
        recomputed.append(0)
        return checkpoint(*inputs, **options)

    monkeypatch.setattr(Distiller, "fused_loss", fused_loss)
    monkeypatch.setattr(split_model, "checkpoint", checkpointed)
    curves = []
    for change, passes in (
        ({}, [2, 2, 2, 1]),
        ({"micro_batch": 1}, [1] * 7),
        ({"activation_checkpointing": True}, [2, 2, 2, 1]),
    ):
        sequences.clear()
        recomputed.clear()
        folder = tmp_path / "-".join(["run", *change])
        assert main(_options(arguments, folder, epochs=1, **change)) == 0
        assert sequences == passes
        assert bool(recomputed) == ("activation_checkpointing" in change)
        curves.append(pq.read_table(folder / "training.parquet")["fit_loss"].to_pylist()[1:])
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    assert curves[2] == pytest.approx(curves[0], abs=1e-5)


@pytest.mark.parametrize("damage", ["shard", "manifest", "text"])
def test_a_store_that_is_not_whole_or_of_another_text_is_refused(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    teacher = _store(arguments, tmp_path)
    options = [*_options(arguments, tmp_path / "trained", mode="offline"), teacher]
    message = "this training needs"
    if damage == "shard":
        shard = tmp_path / "teacher" / "shard-00000.safetensors"
        shard.write_bytes(shard.read_bytes()[:-1])
        message = "the file was changed, delete the manifest to rebuild it"
    elif damage == "manifest":
        (tmp_path / "teacher" / "manifest.json").unlink()
        message = "no such file"
    else:
        options += [f"--fit={option.partition('=')[2]}" for option in arguments if "fit=" in option]
        spec = json.loads(options[-3].removeprefix("--spec=")) | {"fit": [None, 3]}
        options.append(f"--spec={json.dumps(spec)}")
    assert main(options) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "trained" / "patch.safetensors").exists()


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"mode": "offline"}, [], "--teacher: None: mode offline reads stored targets"),
        ({}, ["--teacher=t.json"], "--teacher: t.json: mode fused runs the teacher itself"),
        ({}, ["--patch=elsewhere.safetensors"], "beside its manifest"),
        ({"epochs": 0}, [], "--spec: settings.epochs: 0"),
        ({"windows": 8}, [], "windows: 8: the training text has 7"),
        ({}, ["--heldout=more=h.parquet"], "--heldout: 2 files, but the spec counts windows of 1"),
    ],
)
def test_mistakes_give_one_line_and_no_output(
    tmp_path: Path,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    options: list[str],
    message: str,
) -> None:
    assert main([*_options(arguments, tmp_path / "trained", **settings), *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "trained" / "patch.safetensors").exists()
