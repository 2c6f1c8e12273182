"""A complete small project in a folder: this checkout's code, a tiny random Llama, real formats.

Everything that the default profile does happens here too, through the same rules and programs, on
a model of a few thousand weights and on made-up text, in about a minute.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

CHECKOUT = Path(__file__).parents[2]
COPIED = ["Snakefile", "requirements.lock", "profiles", "workflow", "lpsteps", "config", "reports"]
GENERATED = shutil.ignore_patterns(
    "__pycache__", "tables.html", "tables.json", "*.csv.record.json", "*.record.json"
)
WORDS = [
    "the",
    "a",
    "river",
    "stone",
    "old",
    "light",
    "house",
    "tree",
    "walks",
    "sings",
    "finds",
    "blue",
    "small",
    "over",
    "under",
    "near",
    "and",
    "then",
    "because",
    "water",
    "bird",
    "road",
    "city",
    "night",
    "day",
    "hand",
    "word",
    "ship",
    "horse",
    "long",
    "bright",
    "quiet",
]
PROFILE = "config/tiny.yaml"
LAYERS = 6


def sentences(generator: np.random.Generator, count: int) -> list[str]:
    """Random sentences of random words."""
    lengths = generator.integers(5, 15, size=count)
    return [" ".join(generator.choice(WORDS, size=length)).capitalize() + "." for length in lengths]


def write_model(folder: Path) -> None:
    """Save a random Llama with six layers and a byte-level tokenizer trained on a little text."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, vocab_size=320, show_progress=False)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, eos_token="!", pad_token="!"
    )
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)


def write_data(folder: Path) -> None:
    """Write benchmark files with the hub's columns and three small corpora."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for corpus in ("wikipedia", "novels", "stories"):
        pq.write_table(pa.table({"text": sentences(generator, 240)}), folder / f"{corpus}.parquet")
    for name in ("arc_easy", "arc_challenge"):
        questions = sentences(generator, 12)
        choices = [
            {"text": sentences(generator, 4), "label": ["A", "B", "C", "D"]} for _ in questions
        ]
        answers = list(generator.choice(["A", "B", "C", "D"], size=12))
        columns = {"id": [f"q{i}" for i in range(12)], "question": questions, "choices": choices}
        pq.write_table(pa.table({**columns, "answerKey": answers}), folder / f"{name}_test.parquet")
    pq.write_table(
        pa.table(
            {
                "premise": sentences(generator, 12),
                "choice1": sentences(generator, 12),
                "choice2": sentences(generator, 12),
                "question": ["cause", "effect"] * 6,
                "idx": pa.array(range(12), pa.int32()),
                "label": [0, 1] * 6,
            }
        ),
        folder / "copa_validation.parquet",
    )


def definitions() -> dict[str, object]:
    """Definitions of models and data, as config/models.yaml and config/data.yaml have them."""
    embedding, attention = 48 * 320, 48 * 48 * 2 + 48 * 24 * 2
    layer = attention + 3 * 48 * 96 + 2 * 48
    text = {"columns": ["text"]}
    questions = {"columns": ["id", "question", "choices", "answerKey"]}
    copa = ["premise", "choice1", "choice2", "question", "idx", "label"]
    corpora = ("wikipedia", "novels", "stories")
    tiny = {
        "title": "Tiny Llama",
        "n_layers": LAYERS,
        "hidden_size": 48,
        "parameters": embedding + LAYERS * layer + 48,
        "layer_parameters": layer,
        "source": {"path": "model"},
    }
    return {
        "models": {"tiny": tiny, "tiny-b": {**tiny, "title": "The same by another name"}},
        "datasets": {
            **{
                f"text-{name}": {"title": name, **text, "local": {"test": f"{name}.parquet"}}
                for name in corpora
            },
            **{
                name: {"title": name, **questions, "local": {"test": f"{name}_test.parquet"}}
                for name in ("arc_easy", "arc_challenge")
            },
            "copa": {
                "title": "COPA",
                "columns": copa,
                "local": {"validation": "copa_validation.parquet"},
            },
        },
        "corpora": {
            name: {
                "dataset": f"text-{name}",
                "split": "test",
                "text": "text",
                "partitions": {"calibration": 0.5, "test": 0.5},
            }
            for name in corpora
        },
        "calibrations": {
            "wikipedia": {"corpus": "wikipedia", "windows": 3},
            "wikipedia+own": {"corpus": "wikipedia", "windows": 3, "generated": 2},
        },
        "training_texts": {
            "tiny": {
                "fit": [{"corpus": "wikipedia", "split": "calibration", "windows": 8}],
                "heldout": [{"corpus": "novels", "split": "calibration", "windows": 2}],
            }
        },
    }


def profile() -> dict[str, object]:
    """The profile: four tables, three figures, two pruning levels, a few samples."""
    return {
        "definitions": ["config/tiny_definitions.yaml", "config/methods.yaml"],
        "tables": {
            "table02": {"tiny": [2]},
            "table06": {"tiny": [2]},
            "table08": {"tiny-b": [1], "tiny": [2, 1]},
            "rivals": {"tiny": [2]},
        },
        "figures": {
            "figure1": {"tiny": [2]},
            "figure2": {"tiny": [2]},
            "cosines": {"tiny": []},
        },
        "suites": {
            "perplexity": {
                "protocol": "perplexity",
                "benchmarks": {"wikipedia": 2, "novels": 2},
            },
            "qa": {"protocol": "harness", "benchmarks": {"arc_easy": 6, "copa": None}},
        },
        "calibration": "wikipedia",
        "training_text": "tiny",
        "window_length": 32,
        "batch_tokens": 256,
        "dtype": "float32",
        "data_root": "data",
    }


def methods() -> dict[str, object]:
    """The project's own methods, on as much text and as few layers as the tiny model has."""
    content = yaml.safe_load((CHECKOUT / "config/methods.yaml").read_text())
    content["selections"]["sleb"]["params"] = {"windows": 2, "length": 3}
    # One metric that runs the model is enough here; rows of the other are missing, with the reason.
    del content["selections"]["taylor+"]
    params = {"windows": 2, "length": 16, "exempt_first": 1, "exempt_last": 1}
    content["width_prunings"] = {
        "narrow": {"title": "Narrow", "method": "llm_pruner", "params": params}
    }
    return content


def rivals() -> dict[str, object]:
    """A table of repairs that read moments, run the model, or are built on text of their own.

    Its last row prunes heads and channels in place of layers.
    """
    own = {"selection": "llm-streamline", "recovery": "channel-scale"}
    return {
        "id": "rivals",
        "title": "Rivals",
        "caption": "Repairs of one cut.",
        "columns": [
            {"id": "ratio", "title": "Ratio", "kind": "ratio", "unit": "percent"},
            {"id": "novels", "title": "Novels", "unit": "perplexity"},
        ],
        "rows": [
            {"id": name, "label": name, "selection": "llm-streamline", "recovery": name}
            for name in ("least-squares", "branch-refit")
        ]
        + [
            {"id": "own-text", "label": "own text", **own, "calibration": "wikipedia+own"},
            {"id": "narrow", "label": "Narrow", "selection": "narrow"},
        ],
    }


def write_yaml(path: Path, content: object) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def copy_checkout(project: Path) -> None:
    """Copy what a run needs of this checkout into a new folder, without anything generated."""
    project.mkdir(parents=True)
    for name in COPIED:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, project / name, ignore=GENERATED)
        else:
            shutil.copy2(source, project / name)


def make_project(folder: Path) -> Path:
    """Make the tiny project in ``folder / "project"``."""
    project = folder / "project"
    copy_checkout(project)
    write_model(project / "model")
    write_data(project / "data")
    write_yaml(project / "config/tiny_definitions.yaml", definitions())
    write_yaml(project / "config/methods.yaml", methods())
    write_yaml(project / "reports/tables/rivals.yaml", rivals())
    write_yaml(project / PROFILE, profile())
    return project


def start_snakemake(
    project: Path,
    *arguments: str,
    profile: str = PROFILE,
    cores: int = 2,
    python: Path = Path(sys.executable),
) -> subprocess.Popen[str]:
    """Start Snakemake in a project, in a process group of its own, both outputs in ``stdout``.

    Its jobs run with the same `python`: see :mod:`warm_start` for one that saves time.
    """
    command = [str(python), "-m", "snakemake", "--cores", str(cores), *arguments]
    # These jobs do little but start, so as many as there are cores run side by side.
    command += ["--max-threads", "1"]
    return subprocess.Popen(
        [*command, "--configfile", profile],
        cwd=project,
        env={**os.environ, "LPSTEPS_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell that runs the tests in the background makes its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def snakemake(
    project: Path, *arguments: str, profile: str = PROFILE, python: Path = Path(sys.executable)
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a project to its end."""
    process = start_snakemake(project, *arguments, profile=profile, python=python)
    output, _ = process.communicate(timeout=900)
    return subprocess.CompletedProcess(process.args, process.returncode, output)
