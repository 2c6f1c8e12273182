"""The export_model step, run as a program."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from exported import CPU, TEMPLATES, TOKENS, patches_of, plan_of
from tiny_families import BY_NUMBER, FAMILIES
from tiny_tokenizer import train_tokenizer

from lpsteps.artifacts import read_json, sha256_file, verify_file_manifest, write_json
from lpsteps.evaluation.score import Samples, Score, write_score
from lpsteps.export.checkpoint import load_checkpoint
from lpsteps.export.record import ExportRecord
from lpsteps.models import folding
from lpsteps.models.loading import load_model
from lpsteps.models.surgery import apply_plan
from lpsteps.patches import OperationKind, write_patches
from lpsteps.plan import write_plan
from lpsteps.provenance import read_record
from lpsteps.steps.export_model import main

PLAN = plan_of(2, 3)
METHOD = {"params": {}, "paper": "https://example.org/paper"}
SPEC = {
    "model": "m",
    "variant": "calibration/c/selection/s/n2/r",
    "base": {
        "title": "Tiny",
        "source": "a folder",
        "revision": None,
        "repo": None,
        "folder": "resources/models/m",
        "licence": "Apache-2.0",
    },
    "calibration": "c",
    "selection": {"name": "s", "title": "Selection", "method": "last_layers", **METHOD},
    "recovery": {"name": "r", "title": "Recovery", "method": "linearpatch", **METHOD},
    "benchmarks": {"copa": "CoPa"},
    "seed": 0,
}


@pytest.fixture(autouse=True)
def own_modules_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))


@pytest.fixture
def model(tiny_model_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A model's manifest, with a score and the machine's settings beside its folder."""
    write_json(tmp_path / "compute.json", {"schema": 1, "dtype": "float32", "device": "cpu"})
    for name, value in (("copa", 60.0), ("dense", 70.0)):
        score = Score(
            model="m",
            variant="v",
            benchmark="copa",
            protocol="harness",
            metric="acc",
            value=value,
            unit="percent",
            stderr=None,
            n=5,
            limited=True,
            total=100,
            settings={},
            samples=Samples(ids=[0, 1, 2, 3, 4], values=[1, 1, 1, 0, 0]),
        )
        write_score(tmp_path / f"{name}.json", score)
    return tiny_model_folder(tie_word_embeddings=True)


def export(folder: Path, model: Path, *kinds: OperationKind, **options: str) -> int:
    """Run the step on patches of these kinds; an option replaces or adds to the command line."""
    write_plan(folder / "plan.json", PLAN, model="m", selection="s")
    write_patches(
        folder / "patch.safetensors",
        folder / "patch.manifest.json",
        patches_of(PLAN, *kinds),
        recovery="r",
    )
    arguments = {
        "model": str(model),
        "compute": str(folder / "compute.json"),
        "plan": str(folder / "plan.json"),
        "patch-manifest": str(folder / "patch.manifest.json"),
        "modeling": str(TEMPLATES["layer"]),
        "score": f"copa={folder / 'copa.json'}",
        "dense-score": f"copa={folder / 'dense.json'}",
        "manifest": str(folder / "checkpoint/manifest.json"),
        "log": str(folder / "log.txt"),
        "spec": json.dumps(SPEC),
    }
    return main([f"--{name}={value}" for name, value in (arguments | options).items() if value])


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if not path.name.endswith((".record.json", ".outputs.json"))
    }


@pytest.mark.parametrize(
    ("kinds", "form"), [(("matrix",), "layer_pruned"), (("rotation",), "stock"), ((), "stock")]
)
def test_the_folder_says_what_it_is_and_computes_what_was_scored(
    kinds: Any, form: str, tmp_path: Path, model: Path
) -> None:
    assert export(tmp_path, model, *kinds) == 0
    folder = tmp_path / "checkpoint"
    manifest = verify_file_manifest(folder / "manifest.json")
    assert (manifest["export"], manifest["form"]) == (SPEC["variant"], form)
    assert set(manifest["files"]) == {path.name for path in folder.iterdir()} - {
        "manifest.json",
        "manifest.json.record.json",
        ".outputs.json",
    }
    assert ("modeling_layer_pruned.py" in manifest["files"]) == (form == "layer_pruned")

    reference = load_model(model.parent, torch.float32, device=CPU)
    apply_plan(reference, PLAN, patches_of(PLAN, *kinds))
    found = load_checkpoint(folder, device=CPU, trusted=form != "stock")
    torch.testing.assert_close(found(TOKENS).logits, reference(TOKENS).logits, rtol=1e-4, atol=1e-4)

    record = ExportRecord(**read_json(folder / "export.json"))
    assert (record.form, record.removed_layers, record.n_layers) == (form, [2, 3], 6)
    assert record.parameters == sum(parameter.numel() for parameter in found.parameters())
    assert record.logits_deviation < 1e-5
    (score,) = record.scores
    assert (score.value, score.sha256) == (60.0, sha256_file(tmp_path / "copa.json"))
    assert record.dense_scores[0].value == 70.0
    assert record.lineage[str(tmp_path / "plan.json")]["sha256"] == sha256_file(
        tmp_path / "plan.json"
    )
    slices = yaml.safe_load((folder / "mergekit.yaml").read_text())["slices"]
    assert [part["sources"][0]["layer_range"] for part in slices] == [[0, 2], [4, 6]]
    card = (folder / "README.md").read_text()
    assert "| CoPa | acc | 5 of 100 | 70.00 | 60.00 |" in card
    assert score.sha256[:12] in card


def test_the_record_names_all_that_was_read(tmp_path: Path, model: Path) -> None:
    assert export(tmp_path, model, "matrix") == 0
    record = read_record(tmp_path / "checkpoint/manifest.json")
    assert record["rule"] == "export_model"
    read = {Path(entry["path"]).name for entry in record["inputs"]}
    assert read >= {
        "model.safetensors",
        "plan.json",
        "patch.safetensors",
        "patch.manifest.json",
        "compute.json",
        "copa.json",
        "dense.json",
        "modeling_layer_pruned.py",
    }
    assert record["notes"]["form"] == "layer_pruned"
    written = {Path(entry["path"]).name for entry in record["outputs"]}
    assert written == set(contents(tmp_path / "checkpoint"))


def test_second_run_gives_the_same_bytes(tmp_path: Path, model: Path) -> None:
    found = []
    for _ in range(2):
        assert export(tmp_path, model, "matrix") == 0
        found.append(contents(tmp_path / "checkpoint"))
    assert found[0] == found[1]


def test_the_tokenizer_comes_along_as_it_is(tmp_path: Path, model: Path) -> None:
    manifest = read_json(model)
    train_tokenizer().save_pretrained(model.parent)
    for name in ("chat_template.jinja", "README.md"):
        (model.parent / name).write_text(f"the dense model's {name}")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md"):
        manifest["files"][name] = {
            "sha256": sha256_file(model.parent / name),
            "bytes": (model.parent / name).stat().st_size,
        }
    write_json(model, manifest)
    assert export(tmp_path, model) == 0
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "checkpoint" / name).read_text() == (model.parent / name).read_text()
    assert "dense model's README" not in (tmp_path / "checkpoint/README.md").read_text()


def test_the_dense_model_is_exported_without_a_plan(tmp_path: Path, model: Path) -> None:
    spec = {key: SPEC[key] for key in ("model", "base", "seed")} | {"variant": "dense"}
    absent = dict.fromkeys(("plan", "patch-manifest", "modeling", "score", "dense-score"), "")
    assert export(tmp_path, model, spec=json.dumps(spec), **absent) == 0
    folder = tmp_path / "checkpoint"
    assert not (folder / "mergekit.yaml").exists()
    assert ExportRecord(**read_json(folder / "export.json")).logits_deviation == 0.0


def test_a_model_that_computes_something_else_is_not_exported(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = TEMPLATES["layer"].read_text()
    (tmp_path / "wrong.py").write_text(source.replace("return rows @ weight\n", "return rows\n"))
    assert export(tmp_path, model, "matrix", modeling=str(tmp_path / "wrong.py")) == 1
    assert "from those of the model that was scored" in capsys.readouterr().err
    assert not (tmp_path / "checkpoint").exists()


def test_a_slightly_wrong_fold_is_not_exported(
    tmp_path: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert export(tmp_path, model, "rotation") == 0
    rotate = folding._rotate_layer
    monkeypatch.setattr(
        folding, "_rotate_layer", lambda layer, scale, matrix: rotate(layer, 1.003 * scale, matrix)
    )
    options = {"manifest": str(tmp_path / "other/manifest.json")}
    assert export(tmp_path, model, "rotation", **options) == 1
    error = capsys.readouterr().err
    assert re.search(r"logits deviate by 0\.00\d+ .*; at most 0\.000\d+ is allowed", error)
    assert not (tmp_path / "other").exists()


def test_rounding_hides_no_wrong_fold(
    tmp_path: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In bfloat16 the logits of the right fold deviate by more than those of a wrong one here."""
    compute = {"schema": 1, "dtype": "bfloat16", "device": "cpu"}
    write_json(tmp_path / "bfloat16.json", compute)
    options = {"compute": str(tmp_path / "bfloat16.json")}
    assert export(tmp_path, model, "rotation", **options) == 0
    assert ExportRecord(**read_json(tmp_path / "checkpoint/export.json")).logits_deviation > 1e-3
    rotate = folding._rotate_layer
    monkeypatch.setattr(
        folding, "_rotate_layer", lambda layer, scale, matrix: rotate(layer, 1.003 * scale, matrix)
    )
    options["manifest"] = str(tmp_path / "other/manifest.json")
    assert export(tmp_path, model, "rotation", **options) == 1
    error = capsys.readouterr().err
    assert "folded in float32, the model's logits deviate by 0.00" in error
    assert not (tmp_path / "other").exists()


def test_a_config_that_cannot_describe_the_layers_left_ends_it_early(
    tmp_path: Path,
    model: Path,
    tiny_model_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FAMILIES, "glm4_moe", BY_NUMBER["glm4_moe"])
    monkeypatch.delattr("lpsteps.steps.export_model.logits_on")
    assert export(tmp_path, tiny_model_folder("glm4_moe", first_k_dense_replace=3)) == 1
    error = capsys.readouterr().err
    assert re.search(r"glm4_moe: cannot be exported .*: model\.layers\.2\.mlp\.down_proj", error)
    assert not (tmp_path / "checkpoint").exists()


def test_a_damaged_patch_or_a_missing_class_ends_in_one_line(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(tmp_path, model, "matrix", modeling="") == 1
    assert "--modeling: needed for a model that no stock" in capsys.readouterr().err
    assert export(tmp_path, model, "matrix", plan="") == 1
    assert "--patch-manifest" in capsys.readouterr().err
    assert export(tmp_path, model, "matrix", score=f"copa={tmp_path / 'plan.json'}") == 1
    error = capsys.readouterr().err
    assert "plan.json" in error and error.count("\n") == 1
    assert not (tmp_path / "checkpoint").exists()
