"""Everything that runs a model, on one spread over two devices: the same numbers as on one.

Run in a process of its own by tests/unit/test_models_spreading.py: to torch its devices are those of
a new kind of hardware, which other tests must not find.
"""

from __future__ import annotations

# First of all, as it replaces a part of torch that others import.
import placed_tensors  # isort: skip # noqa: F401
import copy
import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from accelerate import dispatch_model, infer_auto_device_map
from exported import exported, patches_of, plan_of
from placed_tensors import FIRST, SECOND, MixedDevicesError, placed_devices
from tiny_families import COMMON, FAMILIES, FURTHER

from lpsteps.calibration import stream_statistics
from lpsteps.distillation.distiller import Distiller
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.evaluation.perplexity import window_losses
from lpsteps.evaluation.scoring import Request, score_requests
from lpsteps.export.checkpoint import Pruning
from lpsteps.hadamard import basis_matrix
from lpsteps.inputs import ModelInput
from lpsteps.models.gap_moments import gap_moments
from lpsteps.models.layers import decoder_of
from lpsteps.models.repaired_losses import bridged_errors, fitted_bridges
from lpsteps.models.sampling import sample_windows
from lpsteps.models.spreading import spread
from lpsteps.models.surgery import apply_plan
from lpsteps.models.token_scales import measure_token_scales
from lpsteps.models.width import apply_width
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.plan import Plan
from lpsteps.recovery.base import RecoveryContext
from lpsteps.selection.base import SelectionContext

os.environ["HF_HUB_OFFLINE"] = "1"
HIDDEN_SIZE = 48
LAYERS = 6
PLAN = Plan.removing(LAYERS, (2, 3))
TWO_GAPS = Plan.removing(LAYERS, (1, 2, 4))
WINDOWS = np.random.default_rng(2).integers(3, 128, (5, 24))
PATCH = np.eye(HIDDEN_SIZE) + 0.01 * np.random.default_rng(3).standard_normal((HIDDEN_SIZE,) * 2)

Model = Any


def tiny(family: str = "llama") -> Model:
    """A random model on the CPU."""
    name, settings = {**FURTHER, **FAMILIES}[family]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**COMMON | settings | {"num_hidden_layers": LAYERS})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "layers" in name:
                parameter.mul_(5.0)
    return model.eval().requires_grad_(False)


def tiny_on_two(family: str = "llama") -> Model:
    """The same with the first half of its layers on one device and the rest on another."""
    model = tiny(family)
    spread(model, [FIRST, SECOND], [1 << 30, 1 << 30])
    devices = [{p.device for p in layer.parameters()} for layer in decoder_of(model).layers]
    assert devices[0] == {FIRST} and devices[-1] == {SECOND}
    assert model.device == FIRST
    return model


def on_both(use: Callable[[Callable[[], Model]], Any]) -> tuple[Any, Any]:
    """What a computation gives with a model on the CPU, and with one on two devices."""
    expected = use(tiny)
    with placed_devices():
        return expected, use(tiny_on_two)


def assert_same(found: Any, expected: Any, rounding: float = 1e-5) -> None:
    """Numbers in nested containers are equal, up to a part of them.

    Where a product of several steps is one on the CPU, sums are rounded in another way.
    """
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key], rounding)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, rounding)
    elif isinstance(expected, torch.Tensor):
        assert_same(found.cpu().numpy(), expected.numpy(), rounding)
    elif isinstance(expected, np.ndarray | float):
        np.testing.assert_allclose(found, expected, rtol=rounding, atol=rounding)
    elif hasattr(expected, "__dict__"):
        assert_same(vars(found), vars(expected), rounding)
    else:
        assert found == expected


def test_devices_do_not_mix():
    with placed_devices():
        first, second = torch.zeros(3, device=FIRST), torch.ones(3, device=SECOND)
        with pytest.raises(MixedDevicesError):
            first + second
        moved = first + second.to(FIRST)
    assert moved.device == FIRST and moved.cpu().tolist() == [1, 1, 1]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_logits(family: str):
    tokens = torch.from_numpy(WINDOWS)
    expected = tiny(family)(input_ids=tokens).logits
    with placed_devices():
        assert_same(tiny_on_two(family)(input_ids=tokens.to(FIRST)).logits, expected)


def test_each_device_gets_layers_in_proportion_to_its_memory():
    with placed_devices():
        model = tiny()
        spread(model, [FIRST, SECOND], [1 << 30, 2 << 30])
        devices = [next(layer.parameters()).device for layer in decoder_of(model).layers]
    assert devices == [FIRST] * 2 + [SECOND] * 4


def test_a_copy_is_gone_when_nobody_has_it_any_more():
    """Memory of whole layers would else wait for the next search of cycles."""
    with placed_devices():
        layer = copy.deepcopy(decoder_of(tiny_on_two()).layers[-1])
        gone = weakref.ref(layer)
        gc.disable()
        try:
            del layer
            assert gone() is None
        finally:
            gc.enable()


def test_statistics():
    def use(load: Callable[[], Model]) -> Any:
        basis = basis_matrix(HIDDEN_SIZE)
        return list(stream_statistics(load(), WINDOWS, basis, basis_kind="hadamard", batch=2))

    expected, found = on_both(use)
    assert_same(found, expected)


def test_moments():
    def use(load: Callable[[], Model]) -> Any:
        return gap_moments(load(), WINDOWS, TWO_GAPS.gaps, branch=True, batch=2)

    expected, found = on_both(use)
    assert_same(found, expected)


def test_token_scales():
    def use(load: Callable[[], Model]) -> Any:
        basis = basis_matrix(HIDDEN_SIZE)
        return measure_token_scales(
            load(), WINDOWS, PLAN.gaps[0], basis, basis_kind="hadamard", epsilon=1e-6
        )

    expected, found = on_both(use)
    assert_same(found, expected)


def test_perplexity_and_question_answering_of_a_patched_model():
    requests = [Request((3, 4, 5), (6, 7)), Request((3, 4, 5), (9,)), Request((8,), (2, 3))]

    def use(load: Callable[[], Model]) -> Any:
        model = load()
        patch = GapPatch(2, 4, (Operation("matrix", PATCH),))
        apply_plan(model, PLAN, PatchSet((patch,)))
        return window_losses(model, WINDOWS), score_requests(
            model, requests, max_length=64, batch_tokens=64
        )

    expected, found = on_both(use)
    assert_same(found, expected)


# Mixtral counts what goes to its experts by a function that torch has for integers on GPUs alone.
@pytest.mark.parametrize("family", sorted(FURTHER.keys() - {"mixtral"}))
def test_an_untested_family_without_its_last_layers(family: str):
    """Its pruning is checked by a run of the dense model in which the layers are skipped."""
    tokens = torch.from_numpy(WINDOWS)

    def use(load: Callable[[str], Model]) -> Any:
        model = load(family)
        apply_plan(model, Plan.removing(LAYERS, (1, 4, 5)))
        return model(input_ids=tokens.to(model.device)).logits

    expected = use(tiny)
    with placed_devices():
        assert_same(use(tiny_on_two), expected)


def test_bridges_and_what_they_leave():
    def use(load: Callable[[], Model]) -> Any:
        model = load()
        bridges = list(fitted_bridges(model, WINDOWS, [(1, 3), (4, 5)], 1e-3, {}))
        return bridged_errors(model, WINDOWS, bridges, {})

    expected, found = on_both(use)
    assert_same(found, expected)


def test_text_of_its_own():
    expected, found = on_both(lambda load: sample_windows(load(), WINDOWS[:3, :4], 12, seed=1))
    assert_same(found, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "logits_kl", "top_k": 8},
        {"objective": "logits_kl", "top_k": None},
        {"objective": "feature_mse"},
        {"objective": "logits_kl", "top_k": 8, "activation_checkpointing": True},
        {"objective": "logits_kl", "top_k": 8, "parametrisation": "own"},
    ],
    ids=str,
)
def test_distillation(settings: dict[str, Any]):
    def use(load: Callable[[], Model]) -> Any:
        model = load()
        # A trained layer on the second device, in the place of the removed ones.
        restored = {
            f"layers.3.{name}": 1.1 * value.cpu().numpy()
            for name, value in decoder_of(model).layers[3].named_parameters()
        }
        start = PatchSet(
            (GapPatch(2, 4, (Operation("matrix", PATCH),)),),
            replacements=restored,
            restored=(3,),
        )
        distiller = Distiller(model, PLAN, start, DistillationSettings(**settings), seed=0)
        losses = []
        for window in WINDOWS[:3]:
            loss = distiller.fused_loss(torch.from_numpy(window[None]))
            loss.backward()
            losses.append(loss.item())
            with torch.no_grad():
                for parameter in distiller.parameters.values():
                    if parameter.grad is not None:
                        parameter -= 1e-4 * parameter.grad
                        parameter.grad = None
        heldout = distiller.heldout(torch.from_numpy(WINDOWS[3:])).kl()
        return losses, heldout, {k: p.detach().cpu() for k, p in distiller.parameters.items()}

    expected, found = on_both(use)
    # Three steps of a training amplify it.
    assert_same(found, expected, 1e-3)


def given_model(monkeypatch: pytest.MonkeyPatch, load: Callable[[], Model]) -> ModelInput:
    """The input of methods that run the model, with a model at hand."""
    monkeypatch.setattr(ModelInput, "load", lambda *_, **__: load())
    monkeypatch.setattr(ModelInput, "facts", lambda self: {})
    return ModelInput(Path("model"), Path("compute.json"), WINDOWS)


def module_of(folder: str, name: str) -> Any:
    import importlib

    return importlib.import_module(f"lpsteps.{folder}.{name}")


SELECTIONS = {
    "taylor": {"windows": 2, "length": 16},
    "magnitude": {},
    "sleb": {"windows": 2, "length": 16},
    "one_shot_perplexity": {"windows": 2, "length": 16},
    "window_perplexity": {"windows": 2, "length": 16},
    "prune_and_comp": {"windows": 2, "length": 16},
    "repair_aware_layers": {"windows": 3, "heldout": 2},
}


@pytest.mark.parametrize("name", sorted(SELECTIONS))
def test_selection(name: str, monkeypatch: pytest.MonkeyPatch):
    module = module_of("selection", name)
    params = module.Params(**SELECTIONS[name])

    def use(load: Callable[[], Model]) -> Any:
        source = given_model(monkeypatch, load)
        return module.rank(SelectionContext(LAYERS, (1, 2), model=source), params)

    expected, found = on_both(use)
    assert_same(found, expected)


RECOVERIES = {
    "branch_refit": {},
    "least_squares": {"statistics": "sequential"},
    "rotated_scale": {"statistics": "sequential", "basis": "pca"},
    "streamline_ffn": {"intermediate": 16},
    "streamline_layer": {},
    "replaceme_cosine": {},
    "replaceme": {},
    "procrustes_replaceme": {},
    "lora": {},
}
TRAINED = {"streamline_ffn", "streamline_layer", "replaceme_cosine", "lora"}


@pytest.mark.parametrize("name", sorted(RECOVERIES))
def test_recovery(name: str, monkeypatch: pytest.MonkeyPatch):
    module = module_of("recovery", name)
    settings = RECOVERIES[name] | ({"epochs": 1, "batch": 2} if name in TRAINED else {})
    params = module.Params(**settings)
    plan = PLAN if name == "streamline_layer" else TWO_GAPS
    branch = name in ("replaceme", "procrustes_replaceme")
    moments = gap_moments(tiny(), WINDOWS, plan.gaps, branch=branch)

    def use(load: Callable[[], Model]) -> Any:
        source = given_model(monkeypatch, load)
        return module.build(
            RecoveryContext(plan, HIDDEN_SIZE, moments=moments, model=source), params
        )

    expected, found = on_both(use)
    assert_same(found, expected)


def test_sequential_statistics_of_a_gap_across_the_devices(monkeypatch: pytest.MonkeyPatch):
    module = module_of("recovery", "least_squares")
    params = module.Params(statistics="sequential")

    def use(load: Callable[[], Model]) -> Any:
        source = given_model(monkeypatch, load)
        return module.build(RecoveryContext(PLAN, HIDDEN_SIZE, model=source), params)

    expected, found = on_both(use)
    assert_same(found, expected)


def test_width_pruning(monkeypatch: pytest.MonkeyPatch):
    module = module_of("width", "llm_pruner")
    params = module.Params(windows=2, length=16, exempt_first=1, exempt_last=1)

    def use(load: Callable[[], Model]) -> Any:
        pruning = module.prune_model(load(), WINDOWS, 1, params)
        model = load()
        apply_width(model, pruning)
        return pruning, window_losses(model, WINDOWS)

    expected, found = on_both(use)
    assert_same(found, expected)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_an_exported_model_under_an_automatic_device_map(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As transformers does it for `device_map="auto"`, with the devices' own names."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("accelerate.hooks.set_module_tensor_to_device", set_tensor)
    plan = plan_of(2, 3)
    pruning = Pruning(plan, patches_of(plan, "matrix"))
    tokens = torch.from_numpy(WINDOWS[:2])
    model, form = exported(tiny(family), pruning, tmp_path / "export")
    assert form == "layer_pruned"
    model.set_attn_implementation("eager")
    expected = model(tokens).logits
    with placed_devices():
        places = infer_auto_device_map(
            model,
            max_memory={0: "120kB", 1: "10MB"},
            no_split_module_classes=model._no_split_modules,
        )
        devices = {name: (FIRST, SECOND)[place] for name, place in places.items()}
        assert set(devices.values()) == {FIRST, SECOND}
        dispatch_model(model, devices, main_device=FIRST, force_hooks=True)
        assert_same(model(tokens.to(FIRST)).logits, expected)


def set_tensor(module: torch.nn.Module, name: str, device: torch.device, **_: Any) -> None:
    """As accelerate's function of that name, which looks into the memory of a tensor."""
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    old = getattr(owner, last)
    if last in owner._parameters:
        owner._parameters[last] = torch.nn.Parameter(old.detach().to(device), requires_grad=False)
    else:
        owner._buffers[last] = old.to(device)
