"""The store_teacher step, run as a program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from lpsteps.artifacts import write_json, write_parquet
from lpsteps.distillation import teacher_store
from lpsteps.distillation.distiller import Distiller
from lpsteps.distillation.teacher_store import ShardWriter, TeacherStore
from lpsteps.models.causal_attention import use_causal_attention
from lpsteps.models.loading import load_model
from lpsteps.patches import GapPatch, Operation, PatchSet, write_patches
from lpsteps.plan import Plan, write_plan
from lpsteps.program import StepRun
from lpsteps.provenance import read_record
from lpsteps.steps.store_teacher import main

LENGTH = 12
SEED = 5
FIRST = np.random.default_rng(0).integers(3, 128, (5, LENGTH))
SECOND = np.random.default_rng(1).integers(3, 128, (9, LENGTH))
# All windows of the first corpus, four of the second, in the order in which they are stored.
STORED = np.concatenate([FIRST, SECOND[:4]])[np.random.default_rng(SEED).permutation(9)]
TOP_K = 100


def _windows(path: Path, tokens: np.ndarray) -> Path:
    write_parquet(path, pa.table({"token_ids": pa.array(tokens.tolist(), pa.list_(pa.int32()))}))
    return path


@pytest.fixture
def make_arguments(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> Callable[..., Any]:
    """A factory of command lines without the spec, for a model of some settings."""

    def make(dtype: str = "float32", **options: Any) -> list[str]:
        model = tiny_model_folder("llama", **options)
        write_json(tmp_path / "compute.json", {"dtype": dtype, "device": "cpu"})
        plan = Plan.removing(6, (3, 4))
        write_plan(tmp_path / "plan.json", plan, model="tiny", selection="listed")
        start = PatchSet((GapPatch(3, 5, (Operation("shift", np.ones(48)),)),))
        files = [tmp_path / f"patch.{end}" for end in ("safetensors", "manifest.json")]
        write_patches(*files, start, recovery="start")
        return [
            f"--plan={tmp_path / 'plan.json'}",
            f"--start={tmp_path / 'patch.manifest.json'}",
            f"--model={model}",
            f"--compute={tmp_path / 'compute.json'}",
            f"--fit=first={_windows(tmp_path / 'first.parquet', FIRST)}",
            f"--fit=second={_windows(tmp_path / 'second.parquet', SECOND)}",
            f"--manifest={tmp_path / 'store' / 'manifest.json'}",
            f"--log={tmp_path / 'log.txt'}",
        ]

    return make


@pytest.fixture
def arguments(make_arguments: Callable[..., list[str]]) -> list[str]:
    return make_arguments()


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of two windows with their hidden states."""
    size = 2 * LENGTH * (TOP_K * 5 + 48 * 4)
    monkeypatch.setattr(teacher_store, "_SHARD_BYTES", size)


def _spec(**settings: Any) -> str:
    spec = {
        "settings": {"top_k": TOP_K, **settings},
        "fit": [None, 4],
        "seed": SEED,
    }
    return f"--spec={json.dumps(spec)}"


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and not path.name.endswith((".record.json", ".outputs.json"))
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_store_holds_the_largest_probabilities_of_the_whole_model(
    tmp_path: Path, make_arguments: Callable[..., list[str]], dtype: str
) -> None:
    assert main([*make_arguments(dtype), _spec(top_k=7)]) == 0
    store = TeacherStore(tmp_path / "store" / "manifest.json")
    targets, hidden = store.read(np.arange(9))
    model = load_model(tmp_path / "models" / "llama", getattr(torch, dtype))
    use_causal_attention(model)
    with torch.no_grad():
        output = model(torch.from_numpy(STORED), output_hidden_states=True, use_cache=False)
    assert hidden is not None
    torch.testing.assert_close(hidden, output.hidden_states[3])
    expected = output.logits.float().log_softmax(-1)
    tolerance = 1e-5 if dtype == "float32" else 0.1
    torch.testing.assert_close(
        targets.log_probabilities, expected.gather(-1, targets.indices), rtol=0, atol=tolerance
    )
    torch.testing.assert_close(
        targets.log_probabilities, expected.topk(7).values, rtol=0, atol=tolerance
    )
    assert store.facts.branch == 3
    record = read_record(tmp_path / "store" / "manifest.json")
    notes = record["notes"]
    assert (notes["windows"], notes["tokens"], notes["dtype"]) == (9, 9 * LENGTH, dtype)
    inputs = {Path(entry["path"]).name for entry in record["inputs"]}
    assert inputs >= {"plan.json", "patch.safetensors", "first.parquet", "model.safetensors"}
    assert not (tmp_path / "store" / ".partial").exists()


@pytest.mark.parametrize("vocabulary", [128, 70_000])
def test_a_kept_entry_takes_at_most_six_bytes(
    tmp_path: Path, make_arguments: Callable[..., list[str]], vocabulary: int
) -> None:
    arguments = make_arguments(vocab_size=vocabulary)
    assert main([*arguments, _spec(store_hidden=False)]) == 0
    stored = sum(path.stat().st_size for path in (tmp_path / "store").glob("*.safetensors"))
    assert 5.0 < stored / (9 * LENGTH * TOP_K) <= 6.0
    targets, hidden = TeacherStore(tmp_path / "store" / "manifest.json").read(np.arange(9))
    assert hidden is None
    assert int(targets.indices.max()) > vocabulary * 0.9


def test_windows_are_limited_after_the_shuffle(tmp_path: Path, arguments: list[str]) -> None:
    assert main([*arguments, _spec(windows=3)]) == 0
    store = TeacherStore(tmp_path / "store" / "manifest.json")
    assert store.facts.windows == 3
    assert store.facts.tokens_sha256 == teacher_store.tokens_digest(STORED[:3])


@pytest.fixture
def targets_computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry per window that the teacher has run on."""
    computed: list[int] = []
    original = Distiller.targets

    def targets(self: Distiller, tokens: torch.Tensor) -> Any:
        computed.append(len(tokens))
        return original(self, tokens)

    monkeypatch.setattr(Distiller, "targets", targets)
    return computed


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_store_is_completed_and_never_half_used(
    tmp_path: Path,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    targets_computed: list[int],
) -> None:
    assert main([*arguments, _spec()]) == 0
    folder = tmp_path / "store"
    whole = _files(folder)
    assert len(whole) == 5 + 1
    folder.rename(tmp_path / "whole")
    targets_computed.clear()

    original = ShardWriter.write
    for finished in range(5):
        writes: list[str] = []

        def write(
            self: ShardWriter,
            name: str,
            tensors: Any,
            writes: list[str] = writes,
            finished: int = finished,
        ) -> None:
            if len(writes) == min(finished, 1):
                # The shard is there, its note is not.
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_bytes(whole[name][:-7])
                raise KeyboardInterrupt
            writes.append(name)
            original(self, name, tensors)

        monkeypatch.setattr(ShardWriter, "write", write)
        assert main([*arguments, _spec()]) == 130
        assert not (folder / "manifest.json").exists()
        assert list(folder.glob("*.safetensors")) == []
    # Each run but the first has finished one shard more and lost another.
    monkeypatch.setattr(ShardWriter, "write", original)
    targets_computed.clear()
    assert main([*arguments, _spec()]) == 0
    assert len(targets_computed) == 1
    assert _files(folder) == whole
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*whole, "manifest.json.record.json", ".outputs.json"]
    )


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("change", ["damage", "other settings"])
def test_shards_that_do_not_fit_are_made_again(
    tmp_path: Path,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    targets_computed: list[int],
    change: str,
) -> None:
    assert main([*arguments, _spec(top_k=99 if change == "damage" else 98)]) == 0
    whole = _files(tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "whole")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StepRun, "commit", interrupt)
    assert main([*arguments, _spec(top_k=99)]) == 130
    monkeypatch.undo()
    shard = tmp_path / "store" / ".partial" / "shard-00001.safetensors"
    if change == "damage":
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
    size = 2 * LENGTH * (TOP_K * 5 + 48 * 4)
    monkeypatch.setattr(teacher_store, "_SHARD_BYTES", size)
    assert main([*arguments, _spec(top_k=99 if change == "damage" else 98)]) == 0
    assert _files(tmp_path / "store") == whole
    log = (tmp_path / "log.txt").read_text()
    if change == "damage":
        assert "shard-00001.safetensors: damaged; made again" in log
        assert "shard-00000.safetensors" not in log
    else:
        assert log.count("of another store; made again") == 5


def test_a_store_that_replaces_another_leaves_nothing_of_it(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_store, "_SHARD_BYTES", 1)
    assert main([*arguments, _spec()]) == 0
    assert len(list((tmp_path / "store").glob("*.safetensors"))) == 9
    monkeypatch.undo()
    assert main([*arguments, _spec()]) == 0
    assert [path.name for path in (tmp_path / "store").glob("*.safetensors")] == [
        "shard-00000.safetensors"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_spec(top_k=129), "top_k: 129: the model has 128 tokens"),
        (_spec(windows=10), "windows: 10: the training text has 9"),
        (_spec(rank=1), "--spec: settings.rank"),
        ("--manifest=store/list.json", "must be named manifest.json"),
        ("--fit=third", "--fit: 3 files, but the spec counts windows of 2"),
    ],
)
def test_mistakes_give_one_line_and_no_output(
    tmp_path: Path,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    change: str,
    message: str,
) -> None:
    assert main([*arguments, _spec(), change]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("shard-*"))
