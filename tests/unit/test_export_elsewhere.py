"""An export in a program that knows nothing of this project."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import TEMPLATES, patches_of, plan_of
from tiny_tokenizer import VOCABULARY, train_tokenizer

from lpsteps.export.checkpoint import Pruning, write_checkpoint
from lpsteps.models.surgery import apply_plan

ROOT = Path(__file__).parents[2]
PROMPT = "the cat and"
TOKENS = (5, 17, 99, 3, 42, 8)


@pytest.fixture
def exported_with_tokenizer(
    tiny_model: Callable[..., Any], tmp_path: Path
) -> tuple[Any, Any, Path]:
    """A pruned model in memory, its tokenizer, and the folder of its export."""
    model = tiny_model(vocab_size=VOCABULARY, tie_word_embeddings=True)
    plan = plan_of(2, 3)
    patches = patches_of(plan, "matrix")
    reference = copy.deepcopy(model)
    apply_plan(reference, plan, patches)
    folder = tmp_path / "away"
    folder.mkdir()
    write_checkpoint(model, Pruning(plan, patches), folder, TEMPLATES["layer"].read_text())
    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(folder)
    return reference, tokenizer, folder


def check_elsewhere(python: Path, reference: Any, tokenizer: Any, folder: Path) -> None:
    """Run the stranger's program with a Python and compare with the model in memory."""
    command = [str(python), "-I", str(ROOT / "tests/loads_elsewhere.py"), str(folder), PROMPT]
    run = subprocess.run(
        [*command, *map(str, TOKENS)],
        env={**os.environ, "HF_MODULES_CACHE": str(folder.parent / "hf"), "PYTHONPATH": ""},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    with torch.inference_mode():
        expected = reference(torch.tensor([TOKENS])).logits[0]
        prompt = tokenizer(PROMPT, return_tensors="pt")
        tokens = reference.generate(
            **{key: prompt[key] for key in ("input_ids", "attention_mask")},
            max_new_tokens=8,
            do_sample=False,
        )
    torch.testing.assert_close(torch.tensor(found["logits"]), expected, rtol=1e-5, atol=1e-6)
    assert found["text"] == tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :])


def test_it_needs_nothing_of_this_project(exported_with_tokenizer: tuple[Any, Any, Path]) -> None:
    """Loaded by its folder, through the pipeline too, where `lpsteps` cannot be imported."""
    check_elsewhere(Path(sys.executable), *exported_with_tokenizer)


@pytest.mark.slow
@pytest.mark.network
def test_it_loads_in_a_new_environment(
    exported_with_tokenizer: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    """With the locked torch and transformers installed and nothing else asked for."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin/python"
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lock if line.startswith(("torch==", "transformers=="))]
    assert len(pins) == 2
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *pins], check=True)
    check_elsewhere(python, *exported_with_tokenizer)
