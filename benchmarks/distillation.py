"""Tokens per second of distillation, beside the procedure of LinearPatch's released code.

Run it with ``make bench-distillation``. Everything computes in the same dtype on the same windows,
one per step as in the released code:

- *official*: a pass of the dense model with its full logits, of which the K largest are kept as
  float16 probabilities and int64 indices; then the whole pruned model with its full logits, forward
  and backward, from these targets. This is what the released code does, without its crashes.
- *official, further epoch*: the second half of it alone.
- *fused*: teacher and student in one pass.
- *offline, further epoch*: the student from the targets and hidden states that the step
  ``store_teacher`` has stored, read and decoded in each run.
- Both also with batches of several windows, which the released code cannot do.

The arithmetic bound of a step is the time that its floating-point operations would take at the rate
that a bare forward pass of the decoder stack reaches here, with attention between all pairs of
positions. It counts what the gradient needs: the
dense stack and the teacher's logits (fused only), the student's layers behind the cut forward, the
gradient of their activations, and the patch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import log_softmax
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.inputs import (
    PLAN_FOLDER,
    add_model_arguments,
    add_window_arguments,
    read_model,
    with_shared_weights,
)
from benchmarks.measure import (
    exit_status,
    interleaved_seconds,
    median_of_ratios,
    medians,
    output_of,
    peak_memory_of,
    print_peak_memory,
    result_name,
    write_result,
)
from lpsteps.artifacts import read_json, write_json
from lpsteps.data.window_file import first_windows
from lpsteps.distillation.distiller import Distiller
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.distillation.teacher_store import TeacherStore
from lpsteps.models.layers import decoder_of
from lpsteps.models.surgery import apply_plan
from lpsteps.patches import PatchSet, read_patches
from lpsteps.plan import Plan, read_plan

Step = Callable[[], None]
BATCH = 4
OFFICIAL, OFFICIAL_EPOCH = "official", "official, further epoch"
FUSED, OFFLINE_EPOCH = "fused", "offline, further epoch"
FUSED_BATCH, OFFLINE_BATCH = f"fused, batch {BATCH}", f"offline, further epoch, batch {BATCH}"
NAMES = (
    "bare forward",
    OFFICIAL,
    OFFICIAL_EPOCH,
    FUSED,
    FUSED_BATCH,
    OFFLINE_EPOCH,
    OFFLINE_BATCH,
)


class Bench:
    """The contenders on the windows of one file, each of which trains a patch of its own."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Load the model and the start."""
        self.settings = DistillationSettings(top_k=arguments.top_k)
        self.teacher: Path = arguments.teacher
        self.plan: Plan = read_plan(arguments.plan)
        self.start: PatchSet = read_patches(arguments.patch)
        if self.start.replacements:
            raise SystemExit(f"error: {arguments.patch}: take a start that replaces no weights")
        self.model = read_model(arguments)
        windows = first_windows(arguments.windows, arguments.count)
        self.windows = [*torch.from_numpy(windows)[:, None].to(self.model.device)]

    @property
    def tokens(self) -> int:
        """Tokens in one run of a contender."""
        return sum(window.numel() for window in self.windows)

    def contender(self, name: str) -> Step:
        """Set up one of :data:`NAMES`."""
        setups: dict[str, Callable[[], Step]] = {
            "bare forward": self._bare_forward,
            OFFICIAL: lambda: self._official(with_teacher=True),
            OFFICIAL_EPOCH: lambda: self._official(with_teacher=False),
            FUSED: lambda: self._fused(1),
            FUSED_BATCH: lambda: self._fused(BATCH),
            OFFLINE_EPOCH: lambda: self._offline(1),
            OFFLINE_BATCH: lambda: self._offline(BATCH),
        }
        return setups[name]()

    def _synchronise(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()

    def _bare_forward(self) -> Step:
        backbone = decoder_of(self.model).backbone

        def run() -> None:
            with torch.no_grad():
                for window in self.windows:
                    backbone(input_ids=window, use_cache=False)
            self._synchronise()

        return run

    def _official(self, *, with_teacher: bool) -> Step:
        pruned = with_shared_weights(self.model)
        apply_plan(pruned, self.plan, self.start)
        patch = [weight for name, weight in pruned.named_parameters() if "input_patch" in name]
        adamw = torch.optim.AdamW([weight.requires_grad_(True) for weight in patch], lr=1e-9)
        stored: list[tuple[torch.Tensor, torch.Tensor]] = []

        def teach() -> None:
            stored.clear()
            with torch.no_grad():
                for window in self.windows:
                    logits = self.model(input_ids=window, use_cache=False).logits
                    values, indices = logits.topk(self.settings.top_k or 1, dim=-1)
                    probabilities = values.float().softmax(dim=-1)
                    stored.append((probabilities.half().cpu(), indices.cpu()))

        def run() -> None:
            if with_teacher or not stored:
                teach()
            for window, (probabilities, indices) in zip(self.windows, stored, strict=True):
                logits = pruned(input_ids=window, use_cache=False).logits
                student = log_softmax(logits.gather(-1, indices.to(logits.device)).float(), dim=-1)
                teacher = probabilities.to(student)
                loss = (torch.xlogy(teacher, teacher) - teacher * student).sum(-1).mean()
                adamw.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adamw.step()
            self._synchronise()

        return run

    def _distiller(self) -> tuple[Distiller, torch.optim.AdamW]:
        # A model of its own, because the other contenders keep the library's attention.
        model = with_shared_weights(self.model)
        distiller = Distiller(model, self.plan, self.start, self.settings, seed=0)
        return distiller, torch.optim.AdamW(distiller.parameters.values(), lr=1e-9)

    def _trained(
        self,
        adamw: torch.optim.AdamW,
        batches: Sequence[torch.Tensor],
        loss: Callable[[int], torch.Tensor],
    ) -> None:
        for number in range(len(batches)):
            adamw.zero_grad()
            loss(number).backward()  # type: ignore[no-untyped-call]
            adamw.step()
        self._synchronise()

    def _batches(self, size: int) -> list[torch.Tensor]:
        return [
            torch.cat(self.windows[first : first + size])
            for first in range(0, len(self.windows), size)
        ]

    def _fused(self, size: int) -> Step:
        distiller, adamw = self._distiller()
        batches = self._batches(size)
        return lambda: self._trained(adamw, batches, lambda n: distiller.fused_loss(batches[n]))

    def _offline(self, size: int) -> Step:
        distiller, adamw = self._distiller()
        batches = self._batches(size)
        store = TeacherStore(self.teacher)

        def loss(number: int) -> torch.Tensor:
            first = number * size
            targets, hidden = store.read(np.arange(first, first + len(batches[number])))
            return distiller.stored_loss(batches[number], targets, hidden)

        return lambda: self._trained(adamw, batches, loss)

    def bounds(self) -> dict[str, float]:
        """Return the operations that each contender needs over those of a bare forward pass."""
        decoder = decoder_of(self.model)
        (start, end), *others = self.plan.gaps
        if others:
            raise SystemExit("error: the bound is derived for a plan with one gap")
        window = self.windows[0]
        stack = _operations(self._bare_forward(), self.windows)
        pruned = with_shared_weights(self.model)
        apply_plan(pruned, self.plan)
        backbone = decoder_of(pruned).backbone
        # Layers are alike, so those behind the cut take their share of the pruned stack.
        whole = _operations(lambda: backbone(input_ids=window, use_cache=False), [window])
        suffix = whole * (self.plan.n_layers - end) / (self.plan.n_layers - (end - start))
        hidden_size = self.model.config.hidden_size
        tokens = window.numel()
        attention = 4 * tokens * tokens * hidden_size * (self.plan.n_layers - end)
        # The gradient of a product with a frozen matrix costs what the product does; that of the
        # two products between activations costs twice as much.
        student = 2 * suffix + attention
        rows = 4 * tokens * (self.settings.top_k or 0) * hidden_size
        patch = 4 * tokens * hidden_size**2
        logits = 2 * tokens * decoder.lm_head.get_parameter("weight").numel()
        offline = student + rows + patch
        fused = stack + logits + offline
        return {
            **dict.fromkeys((FUSED, FUSED_BATCH), fused / stack),
            **dict.fromkeys((OFFLINE_EPOCH, OFFLINE_BATCH), offline / stack),
        }


def _operations(run: Callable[[], object], windows: Sequence[torch.Tensor]) -> float:
    """Return the floating-point operations per window."""
    # Fused attention is not counted on every device, the products that it consists of are.
    unfused = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), unfused, FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / len(windows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distillation")
    add_model_arguments(parser)
    add_window_arguments(parser, count=BATCH)
    parser.add_argument(
        "--plan", type=Path, default=PLAN_FOLDER / "plan.json", help="plan with one gap, JSON"
    )
    parser.add_argument(
        "--patch",
        type=Path,
        default=PLAN_FOLDER / "linearpatch/patch.manifest.json",
        help="manifest of the start",
    )
    parser.add_argument("--top-k", type=int, default=100, help="outcomes per position")
    parser.add_argument("--teacher", type=Path, help="manifest of stored targets; null: made here")
    parser.add_argument("--only", choices=NAMES, help="run one twice and print its peak memory")
    return parser


def store_targets(arguments: argparse.Namespace, folder: Path) -> Path:
    """Run the step that stores targets, and return their manifest.

    Raises:
        LpstepsError: It failed.
    """
    manifest = folder / "teacher" / "manifest.json"
    compute = folder / "compute.json"
    facts = read_json(arguments.compute)
    write_json(compute, facts | {"dtype": arguments.dtype or facts["dtype"]})
    spec = {
        "settings": {"top_k": arguments.top_k, "windows": arguments.count},
        "fit": [arguments.count],
    }
    options = {
        "--plan": arguments.plan,
        "--start": arguments.patch,
        "--model": arguments.model,
        "--compute": compute,
        "--fit": f"text={arguments.windows}",
        "--manifest": manifest,
        "--spec": json.dumps(spec),
    }
    command = [str(word) for option in options.items() for word in option]
    output_of("lpsteps.steps.store_teacher", *command)
    return manifest


def measured(arguments: argparse.Namespace, given: Sequence[str]) -> dict[str, Any]:
    """Measure all contenders.

    Args:
        arguments: The parsed command line, with stored targets.
        given: The same as words, for the processes that measure memory.

    Returns:
        What ``results/distillation.json`` holds.
    """
    # Before this process grows: a process starts with the peak of the one that it comes from.
    # Another epoch of the official procedure is left out, because it makes its targets here.
    peaks = {
        name: peak_memory_of("benchmarks.distillation", *given, "--only", name)
        for name in NAMES
        if name != OFFICIAL_EPOCH
    }
    bench = Bench(arguments)
    seconds = interleaved_seconds(
        {name: bench.contender(name) for name in NAMES}, arguments.repetitions
    )
    bare = seconds["bare forward"]
    relative = {name: median_of_ratios(values, bare) for name, values in seconds.items()}
    bounds = bench.bounds()
    rivals = {
        **dict.fromkeys((FUSED, FUSED_BATCH), OFFICIAL),
        **dict.fromkeys((OFFLINE_EPOCH, OFFLINE_BATCH), OFFICIAL_EPOCH),
    }
    return {
        "settings": {
            "dtype": str(bench.model.dtype).removeprefix("torch."),
            "gap": list(bench.plan.gaps[0]),
            "layers": bench.plan.n_layers,
            "repetitions": arguments.repetitions,
            "tokens_per_window": bench.windows[0].numel(),
            "top_k": arguments.top_k,
            "windows": arguments.count,
        },
        "tokens_per_second": {
            name: round(bench.tokens / value, 1) for name, value in medians(seconds).items()
        },
        "bare_forwards": {name: round(value, 3) for name, value in relative.items()},
        "speedup": {
            name: round(median_of_ratios(seconds[rival], seconds[name]), 3)
            for name, rival in rivals.items()
        },
        "arithmetic_bound_bare_forwards": {name: round(bound, 3) for name, bound in bounds.items()},
        "over_arithmetic_bound": {
            name: round(relative[name] / bound, 3) for name, bound in bounds.items()
        },
        "peak_memory_bytes": peaks,
    }


def main() -> int:
    """Measure and write the result; return the exit status."""
    arguments = _parser().parse_args()
    return exit_status("distillation", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    if arguments.only:
        print_peak_memory(Bench(arguments).contender(arguments.only))
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.teacher = store_targets(arguments, Path(folder))
        given = [*sys.argv[1:], "--teacher", str(arguments.teacher)]
        result = measured(arguments, given)
    path = write_result(result_name("distillation", arguments), result)
    for key, value in result.items():
        print(f"{key}: {value}")
    print(path)


if __name__ == "__main__":
    raise SystemExit(main())
