from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import kl_div, mse_loss

from lpsteps.distillation.distiller import Distiller
from lpsteps.distillation.divergence import TeacherTargets
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.errors import LpstepsError
from lpsteps.hadamard import basis_matrix
from lpsteps.models.boundaries import watching_boundaries
from lpsteps.models.causal_attention import use_causal_attention
from lpsteps.models.layers import decoder_of
from lpsteps.models.surgery import apply_plan
from lpsteps.patches import GapPatch, Operation, PatchSet
from lpsteps.plan import Plan

HIDDEN_SIZE = 48
STEPS = 20
LEARNING_RATE = 1e-3
ONE_GAP = Plan.removing(6, (2, 3))
TWO_GAPS = Plan.removing(6, (1, 4))
H = torch.tensor(basis_matrix(HIDDEN_SIZE).matrix, dtype=torch.float32)

Patch = Callable[[torch.Tensor], torch.Tensor]
Factory = Callable[..., Any]


@pytest.fixture
def peaked_model(tiny_model: Factory) -> Factory:
    """A factory of tiny models whose distributions are as far from uniform as real ones."""

    def make(family: str = "llama") -> Any:
        model = tiny_model(family)
        model.get_output_embeddings().weight.mul_(15.0)
        return model

    return make


def windows(count: int, length: int = 9, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, 128, (count, length), generator=generator)


def linear_patches(plan: Plan) -> PatchSet:
    random = np.random.default_rng(0)
    basis = basis_matrix(HIDDEN_SIZE).matrix
    return PatchSet(
        tuple(
            GapPatch(
                *gap,
                (Operation("matrix", (basis * random.uniform(0.8, 1.6, HIDDEN_SIZE)) @ basis.T),),
            )
            for gap in plan.gaps
        )
    )


def perturbed(model: Any, *names: str) -> dict[str, Any]:
    random = np.random.default_rng(1)
    return {
        name: (parameter.numpy() + 0.05 * random.standard_normal(parameter.shape)).astype("float32")
        for name, parameter in decoder_of(model).backbone.named_parameters()
        if name.startswith(names)
    }


def settings(**chosen: Any) -> DistillationSettings:
    return DistillationSettings.model_validate(
        {"top_k": 10, "rank": 4, "learning_rate": LEARNING_RATE, **chosen}
    )


def fit(
    parameters: list[Any], loss: Callable[[torch.Tensor], torch.Tensor], batches: torch.Tensor
) -> list[float]:
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, T_max=len(batches), eta_min=LEARNING_RATE / 20
    )
    losses = []
    for batch in batches:
        value = loss(batch)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        losses.append(value.item())
    return losses


class Reference:
    """The dense model and a pruned deep copy of it whole, full logits, and nothing clever."""

    def __init__(
        self, model: Any, plan: Plan, start: PatchSet, chosen: DistillationSettings, u: Any = None
    ) -> None:
        self.dense = copy.deepcopy(model)
        self.pruned = copy.deepcopy(model)
        self.plan, self.chosen = plan, chosen
        decoder = decoder_of(self.pruned)
        entrances = [*decoder.layers, decoder.norm]
        apply_plan(self.pruned, plan, PatchSet((), {}, dict(start.replacements), start.restored))
        self.parameters: list[Any] = []
        self.patches: list[Patch] = []
        for index, (first, end) in enumerate(plan.gaps):
            gap = next((gap for gap in start.gaps if gap.start == first), None)
            patch = self._patch(gap, None if u is None else u[index])
            self.patches.append(patch)
            entrances[end].register_forward_pre_hook(
                lambda _, positional, named, patch=patch: (
                    (patch(positional[0]), *positional[1:]) if positional else positional,
                    named
                    if positional
                    else {**named, "hidden_states": patch(named["hidden_states"])},
                ),
                with_kwargs=True,
            )
        for layer in start.restored:
            weights = entrances[layer].requires_grad_(True).named_parameters()
            self.parameters += [weight for _, weight in sorted(weights)]

    def _patch(self, gap: GapPatch | None, u: Any) -> Patch:
        identity = np.eye(HIDDEN_SIZE)
        weight = torch.tensor(gap.operations[0].weight if gap else identity, dtype=torch.float32)

        def free(values: torch.Tensor) -> torch.Tensor:
            self.parameters.append(values.clone().requires_grad_(True))
            return self.parameters[-1]

        match self.chosen.parametrisation:
            case "full":
                w = free(weight)
                return lambda x: x @ w
            case "symmetric":
                a = free(weight)
                return lambda x: x @ ((a + a.T) / 2)
            case "diagonal":
                d = free(torch.diagonal(H.T @ weight @ H))
                return lambda x: x @ (H @ torch.diag(d) @ H.T)
            case "low_rank":
                down, up = free(u), free(torch.zeros_like(u))
                return lambda x: (x @ weight) @ (torch.eye(HIDDEN_SIZE) + down @ up.T)
            case "scalar":
                c = free(torch.ones(1))
                return lambda x: (x @ weight) * c
            case "own" if gap is None:
                return lambda x: x
            case "own":
                g = free(weight)

                def mlp(x: torch.Tensor) -> torch.Tensor:
                    r = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
                    return x + (torch.nn.functional.silu(r @ g[0]) * (r @ g[1])) @ g[2].T

                return mlp

    def loss(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.chosen.objective == "feature_mse":
            states: dict[int, torch.Tensor] = {}
            with watching_boundaries(self.dense, states.__setitem__), torch.no_grad():
                self.dense(tokens, use_cache=False)
            errors = [
                mse_loss(patch(states[start]), states[end])
                for patch, (start, end) in zip(self.patches, self.plan.gaps, strict=True)
            ]
            return sum(errors, torch.zeros(())) / len(errors)
        with torch.no_grad():
            teacher = self.dense(tokens, use_cache=False).logits.float().log_softmax(-1)
        student = self.pruned(tokens, use_cache=False).logits.float().log_softmax(-1)
        if self.chosen.top_k is not None:
            top = teacher.topk(self.chosen.top_k).indices
            if self.chosen.tail:
                outside = torch.ones_like(teacher).scatter(-1, top, 0.0).bool()
                teacher, student = (
                    torch.cat(
                        [
                            logs.gather(-1, top),
                            torch.where(outside, logs.exp(), 0.0).sum(-1, keepdim=True).log(),
                        ],
                        dim=-1,
                    )
                    for logs in (teacher, student)
                )
            else:
                teacher, student = (
                    logs.gather(-1, top).log_softmax(-1) for logs in (teacher, student)
                )
        positions = teacher.flatten(0, -2)
        return kl_div(student.flatten(0, -2), positions, log_target=True, reduction="batchmean")


def check_against_reference(
    model: Any, plan: Plan, start: PatchSet, chosen: DistillationSettings, *, share: float = 1.0
) -> None:
    """Compare 20 steps; a share below 1 leaves room for weights whose gradient is rounding noise.

    Adam moves a weight as far for a gradient of noise as for any other, in a direction that is
    noise, too. Where thousands of weights are trained, a few meet such a gradient.
    """
    distiller = Distiller(model, plan, start, chosen, seed=3)
    u = [
        values.detach().clone() for name, values in distiller.parameters.items() if name[-1] == "u"
    ]
    reference = Reference(model, plan, start, chosen, u or None)
    before = [values.detach().clone() for values in distiller.parameters.values()]
    batches = windows(2 * STEPS).view(STEPS, 2, -1)
    losses = fit(list(distiller.parameters.values()), distiller.fused_loss, batches)
    expected = fit(reference.parameters, reference.loss, batches)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    assert len(distiller.parameters) == len(reference.parameters)
    for (name, values), plain, old in zip(
        distiller.parameters.items(), reference.parameters, before, strict=True
    ):
        differences = (values.detach() - plain.detach()).abs().flatten()
        assert differences.quantile(share) < 1e-5, name
        assert differences.max() < LEARNING_RATE, name
        assert (values.detach() - old).abs().max() > LEARNING_RATE, name
    assert all(weight.grad is None for weight in model.parameters())


OBJECTIVES: dict[str, dict[str, Any]] = {
    "top": {},
    "tail": {"tail": True},
    "whole": {"top_k": None},
    "feature": {"objective": "feature_mse"},
}


@pytest.mark.parametrize("parametrisation", ["full", "symmetric", "diagonal", "low_rank", "scalar"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_matches_a_plain_loop(
    peaked_model: Factory, objective: str, parametrisation: str
) -> None:
    # Each combination once; families and numbers of gaps take turns.
    family = {"top": "llama", "tail": "gemma2", "whole": "olmo2", "feature": "llama"}[objective]
    plan = TWO_GAPS if parametrisation in ("full", "diagonal", "low_rank") else ONE_GAP
    chosen = settings(parametrisation=parametrisation, **OBJECTIVES[objective])
    check_against_reference(peaked_model(family), plan, linear_patches(plan), chosen)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_a_gated_mlp_matches_a_plain_loop(peaked_model: Factory, objective: str) -> None:
    weight = np.random.default_rng(0).standard_normal((3, HIDDEN_SIZE, 20)) / 7
    start = PatchSet((GapPatch(2, 4, (Operation("gated_mlp", weight),)),))
    chosen = settings(parametrisation="own", **OBJECTIVES[objective])
    check_against_reference(peaked_model(), ONE_GAP, start, chosen)


@pytest.mark.parametrize("objective", ["top", "tail", "whole"])
def test_training_a_restored_layer_matches_a_plain_loop(
    peaked_model: Factory, objective: str
) -> None:
    model = peaked_model()
    start = PatchSet(replacements=perturbed(model, "layers.2."), restored=(2,))
    chosen = settings(parametrisation="own", **OBJECTIVES[objective])
    check_against_reference(model, ONE_GAP, start, chosen, share=0.99)


def test_features_of_a_restored_layer_are_those_of_llm_streamline(peaked_model: Factory) -> None:
    model = peaked_model()
    replacements = perturbed(model, "layers.2.")
    start = PatchSet(replacements=replacements, restored=(2,))
    chosen = settings(parametrisation="own", objective="feature_mse")
    changed = copy.deepcopy(model)
    apply_plan(changed, Plan.removing(6, (3,)), PatchSet(replacements=replacements))
    states: dict[str, dict[int, torch.Tensor]] = {"dense": {}, "pruned": {}}
    for name, run in (("dense", model), ("pruned", changed)):
        with watching_boundaries(run, states[name].__setitem__):
            run(windows(2))
    # The layer behind the restored one is number 3 of the pruned model.
    expected = mse_loss(states["pruned"][3], states["dense"][4])
    loss = Distiller(model, ONE_GAP, start, chosen, seed=0).fused_loss(windows(2))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.item() > 1e-3


@pytest.mark.parametrize("objective", ["top", "tail"])
def test_replaced_weights_in_front_of_the_cut_are_the_students(
    peaked_model: Factory, objective: str
) -> None:
    model = peaked_model()
    start = PatchSet(
        linear_patches(ONE_GAP).gaps, replacements=perturbed(model, "layers.1.mlp", "layers.4.")
    )
    chosen = settings(**OBJECTIVES[objective])
    assert Distiller(model, ONE_GAP, start, chosen, seed=0).branch == 1
    check_against_reference(model, ONE_GAP, start, chosen)


def test_every_family_trains_a_full_patch(peaked_model: Factory, family: str) -> None:
    model, start, chosen = peaked_model(family), linear_patches(ONE_GAP), settings()
    distiller = Distiller(model, ONE_GAP, start, chosen, seed=0)
    reference = Reference(model, ONE_GAP, start, chosen)
    losses = [distiller.fused_loss(windows(2)), reference.loss(windows(2))]
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    gradient = distiller.parameters["gaps.0.matrix"].grad
    assert gradient is not None
    expected = reference.parameters[0].grad
    scale = expected.abs().max().item()
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("plan", [ONE_GAP, TWO_GAPS])
def test_stored_targets_give_the_loss_of_the_fused_mode(
    peaked_model: Factory, plan: Plan, tail: bool
) -> None:
    model = peaked_model("qwen3")
    start = PatchSet(linear_patches(plan).gaps, replacements=perturbed(model, "layers.0.mlp"))
    distiller = Distiller(model, plan, start, settings(tail=tail), seed=0)
    stored, hidden = distiller.targets(windows(5))
    assert hidden.shape == (5, 9, HIDDEN_SIZE)
    batch = torch.tensor([3, 1])
    losses = []
    gradients = []
    targets = TeacherTargets(stored.log_probabilities[batch], stored.indices[batch])
    for loss in (
        distiller.fused_loss(windows(5)[batch]),
        distiller.stored_loss(windows(5)[batch], targets, hidden[batch]),
        distiller.stored_loss(windows(5)[batch], targets, None),
    ):
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        gradients.append(distiller.parameters["gaps.0.matrix"].grad)
        distiller.parameters["gaps.0.matrix"].grad = None
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
    for gradient in gradients:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_of_a_batch_is_the_mean_of_its_windows(
    peaked_model: Factory, objective: str
) -> None:
    start = linear_patches(TWO_GAPS)
    distiller = Distiller(
        peaked_model(), TWO_GAPS, start, settings(**OBJECTIVES[objective]), seed=0
    )
    alone = [distiller.fused_loss(window[None]).item() for window in windows(3)]
    assert distiller.fused_loss(windows(3)).item() == pytest.approx(np.mean(alone), rel=1e-5)
    assert np.ptp(alone) > 1e-3 * np.mean(alone)


def test_features_of_bfloat16_models_are_compared_in_float32(peaked_model: Factory) -> None:
    model, start = peaked_model().bfloat16(), linear_patches(ONE_GAP)
    use_causal_attention(model)
    states: dict[int, torch.Tensor] = {}
    with watching_boundaries(model, states.__setitem__):
        model(windows(2))
    matrix = torch.tensor(start.gaps[0].operations[0].weight, dtype=torch.float32)
    expected = mse_loss(states[2].float() @ matrix, states[4].float()).item()
    chosen = settings(objective="feature_mse")
    loss = Distiller(model, ONE_GAP, start, chosen, seed=0).fused_loss(windows(2))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_features_take_no_layer_behind_the_last_gap(peaked_model: Factory) -> None:
    model = peaked_model()
    chosen = settings(objective="feature_mse")
    distiller = Distiller(model, ONE_GAP, PatchSet(), chosen, seed=0)

    def fail(*_: Any) -> None:
        raise AssertionError

    distiller.fused_loss(windows(2))  # the first batch of a shape also tells how layers are called
    decoder_of(model).layers[4].register_forward_hook(fail)
    distiller.fused_loss(windows(2))


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("objective", ["top", "feature"])
def test_the_held_out_measure_covers_the_whole_vocabulary_whatever_is_trained(
    peaked_model: Factory, objective: str, batch: int
) -> None:
    model, start = peaked_model(), linear_patches(ONE_GAP)
    chosen = settings(batch=batch, **OBJECTIVES[objective])
    distiller = Distiller(model, ONE_GAP, start, chosen, seed=0)
    heldout = distiller.heldout(windows(3, seed=1))
    whole = Reference(model, ONE_GAP, start, settings(top_k=None))
    assert heldout.kl() == pytest.approx(whole.loss(windows(3, seed=1)).item(), rel=1e-5)
    with torch.no_grad():
        distiller.parameters["gaps.0.matrix"] += 0.1
        whole.parameters[0] += 0.1
    assert heldout.kl() == pytest.approx(whole.loss(windows(3, seed=1)).item(), rel=1e-5)


def test_patches_are_returned_as_copies_that_reproduce_the_student(peaked_model: Factory) -> None:
    model = peaked_model()
    start = linear_patches(ONE_GAP)
    distiller = Distiller(model, ONE_GAP, start, settings(), seed=0)
    heldout = distiller.heldout(windows(3))
    fit(list(distiller.parameters.values()), distiller.fused_loss, windows(6).view(3, 2, -1))
    trained = distiller.patch_set()
    again = Distiller(model, ONE_GAP, trained, settings(), seed=0).heldout(windows(3))
    measured = heldout.kl()
    with torch.no_grad():
        distiller.parameters["gaps.0.matrix"].zero_()
    assert again.kl() == pytest.approx(measured, rel=1e-6)
    assert heldout.kl() != pytest.approx(measured, rel=1e-2)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_bfloat16_models_train_float32_patches(peaked_model: Factory, objective: str) -> None:
    model, start = peaked_model(), linear_patches(TWO_GAPS)
    exact = Distiller(model, TWO_GAPS, start, settings(**OBJECTIVES[objective]), seed=0)
    expected = exact.fused_loss(windows(2))
    chosen = settings(**OBJECTIVES[objective])
    distiller = Distiller(copy.deepcopy(model).bfloat16(), TWO_GAPS, start, chosen, seed=0)
    loss = distiller.fused_loss(windows(2))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.05)
    for parameter in distiller.parameters.values():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.abs().max() > 0.0
    assert distiller.patch_set().gaps[0].operations[0].weight.dtype == np.float32


@pytest.mark.parametrize(
    ("plan", "chosen", "message"),
    [
        (Plan.dense(6), {}, r"plan: layers: \[\]: nothing is removed"),
        (ONE_GAP, {"top_k": 129}, r"top_k: 129: the model has 128 tokens; use at most 128"),
        (ONE_GAP, {"top_k": 128, "tail": True}, r"top_k: 128: .*; use at most 127, or null"),
        (Plan.removing(7, (2,)), {}, r"plan: n_layers: 7: the model has 6 decoder layers"),
    ],
)
def test_what_cannot_be_distilled_is_refused(
    peaked_model: Factory, plan: Plan, chosen: dict[str, Any], message: str
) -> None:
    with pytest.raises(LpstepsError, match=f"^{message}"):
        Distiller(peaked_model(), plan, PatchSet(), settings(**chosen), seed=0)


@pytest.mark.parametrize("name", ["layers.1.mlp.down_proj", "layers.4.", "embed_tokens"])
def test_features_of_a_start_that_changes_what_the_patch_reads_are_refused(
    peaked_model: Factory, name: str
) -> None:
    """As branch-refit and procrustes-replaceme do; a restored layer is part of the patch."""
    model = peaked_model()
    replaced = perturbed(model, name)
    start = PatchSet(linear_patches(ONE_GAP).gaps, replacements=replaced)
    chosen = settings(objective="feature_mse")
    with pytest.raises(LpstepsError, match=f"^start: replacements: {min(replaced)}: .*logits_kl"):
        Distiller(model, ONE_GAP, start, chosen, seed=0)
    both = PatchSet(replacements=replaced | perturbed(model, "layers.2."), restored=(2,))
    own = settings(objective="feature_mse", parametrisation="own")
    with pytest.raises(LpstepsError, match=f"^start: replacements: {min(replaced)}: "):
        Distiller(model, ONE_GAP, both, own, seed=0)


def test_a_whole_vocabulary_has_no_targets_to_store(peaked_model: Factory) -> None:
    distiller = Distiller(peaked_model(), ONE_GAP, PatchSet(), settings(top_k=None), seed=0)
    with pytest.raises(LpstepsError, match=r"^top_k: null: "):
        distiller.targets(windows(1))
