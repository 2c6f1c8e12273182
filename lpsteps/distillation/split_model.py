"""Teacher and student in one model: the layers that they share run once.

The student has the teacher's frozen weights, except where its start replaces some, so both agree up
to the first layer that one of them does not have. From there the dense layers give the teacher and
the remaining ones, patched, the student. Nothing is copied but the replaced weights.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lpsteps.distillation.parametrisation import TrainablePatches
from lpsteps.errors import LpstepsError
from lpsteps.models.boundaries import watching_boundaries
from lpsteps.models.causal_attention import use_causal_attention
from lpsteps.models.gap_pass import run_until
from lpsteps.models.layer_calls import LayerCall, watching_calls
from lpsteps.models.layers import Decoder, decoder_of
from lpsteps.models.surgery import surviving_layers
from lpsteps.patches import PatchSet
from lpsteps.plan import Plan


class SplitModel:
    """A dense model and the pruned and patched one, on the same batches.

    Attributes:
        decoder: The parts of the dense model.
        branch: The first layer where the two differ: that of the first gap, or the lowest one with
            a replaced weight in front of it.
        device: Where the models are.
    """

    decoder: Decoder
    branch: int
    device: torch.device

    def __init__(
        self,
        model: PreTrainedModel,
        plan: Plan,
        start: PatchSet,
        patches: TrainablePatches,
        *,
        activation_checkpointing: bool = False,
    ) -> None:
        """Find where the models part; freeze the weights.

        Args:
            model: The dense model, in evaluation mode. From here on none of its weights requires a
                gradient, and on a processor its attention is that of
                :mod:`lpsteps.models.causal_attention`; it does not change otherwise.
            plan: The removed layers, at least one.
            start: Its replacements and restored layers are the student's. Plan and start belong to
                the model, as :func:`~lpsteps.models.surgery.check_plan` says.
            patches: The student's patches, on the model's device.
            activation_checkpointing: Whether the student's layers run again in the backward pass.

        Raises:
            LpstepsError: The start replaces weights that the models share: the embedding's.
        """
        model.requires_grad_(False)
        use_causal_attention(model)
        self._model = model
        self.decoder = decoder_of(model)
        self.device = model.device
        self._patches = patches
        self._survivors = frozenset(surviving_layers(plan, start))
        self._checkpointing = activation_checkpointing
        self._calls: dict[tuple[int, int], list[LayerCall]] = {}
        self._replaced = self._replaced_weights(start)
        self.branch = min([plan.gaps[0][0], *self._replaced])

    def shared(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what enters the branch, without a gradient, ``[batch, tokens, hidden_size]``.

        Args:
            tokens: Token ids, int64 ``[batch, tokens]``, on any device.
        """
        return self.dense_states(tokens, {self.branch})[self.branch]

    def dense_states(
        self, tokens: torch.Tensor, boundaries: Collection[int]
    ) -> dict[int, torch.Tensor]:
        """Return what enters some layers of the dense model; those behind the last do not run.

        Args:
            tokens: Token ids, int64 ``[batch, tokens]``, on any device.
            boundaries: Numbers of layers; the number of layers stands for the final norm.

        Returns:
            The hidden states of each, ``[batch, tokens, hidden_size]``, without a gradient.
        """
        states: dict[int, torch.Tensor] = {}

        def keep(boundary: int, hidden: torch.Tensor) -> None:
            if boundary in boundaries:
                states[boundary] = hidden

        with watching_boundaries(self._model, keep):
            run_until(self._model, tokens, max(boundaries))
        return states

    @torch.no_grad()
    def teacher(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the dense model's normalised rows.

        Args:
            hidden: What enters the branch, ``[batch, tokens, hidden_size]``.
        """
        calls = self._calls_for(hidden)
        for layer in range(self.branch, len(calls)):
            hidden = calls[layer].run(self.decoder.layers[layer], hidden)
        rows: torch.Tensor = self.decoder.norm(hidden)
        return rows

    def student(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the pruned model's normalised rows, with a gradient from the first patch on.

        Args:
            hidden: What enters the branch, ``[batch, tokens, hidden_size]``.
        """
        layers = len(self.decoder.layers)
        hidden = self._patches(self.student_states(hidden, self.branch, layers), layers)
        return LayerCall().run(self.decoder.norm, hidden, self._weights_of(layers))

    def student_states(self, hidden: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """Run the student from one boundary to another, in front of the patch that may be there.

        Args:
            hidden: What enters layer ``start``, ``[batch, tokens, hidden_size]``.
            start: Number of a layer of the dense model that no gap ends at.
            end: Number of a later one; the number of layers stands for the final norm.

        Returns:
            The hidden states, of the same shape.
        """
        calls = self._calls_for(hidden)
        for layer in range(start, end):
            hidden = self._patches(hidden, layer)
            if layer in self._survivors:
                run = partial(calls[layer].run, self.decoder.layers[layer])
                weights = self._weights_of(layer)
                if self._checkpointing and torch.is_grad_enabled():
                    hidden = checkpoint(
                        run, hidden, weights, use_reentrant=False, preserve_rng_state=False
                    )
                else:
                    hidden = run(hidden, weights)
        return hidden

    def _replaced_weights(self, start: PatchSet) -> dict[int, dict[str, torch.Tensor]]:
        """Return the student's own weights by boundary and by name in the module there."""
        originals = self.decoder.parameters()
        modules = [*self.decoder.layers, self.decoder.norm]
        places = {
            id(parameter): (boundary, name)
            for boundary, module in enumerate(modules)
            for name, parameter in module.named_parameters()
        }
        replaced: dict[int, dict[str, torch.Tensor]] = {}
        for full_name, values in start.replacements.items():
            original = originals[full_name]
            if id(original) not in places:
                raise LpstepsError(
                    f"start: replacements: {full_name}: teacher and student share this weight in a "
                    "distillation; choose a start that replaces weights of decoder layers only"
                )
            boundary, name = places[id(original)]
            replaced.setdefault(boundary, {})[name] = self._patches.trained.get(
                full_name, torch.tensor(values).to(original)
            )
        return replaced

    def _weights_of(self, boundary: int) -> dict[str, torch.Tensor]:
        """Return the student's own weights in the dtype and where the model computes."""
        module = [*self.decoder.layers, self.decoder.norm][boundary]
        return {
            name: weight.to(module.get_parameter(name))
            for name, weight in self._replaced.get(boundary, {}).items()
        }

    def _calls_for(self, hidden: torch.Tensor) -> list[LayerCall]:
        """Return what the backbone hands to each layer besides the hidden states.

        It depends on the shape of the batch only: masks and rotary embeddings.
        """
        batch, length, _ = hidden.shape
        if (batch, length) not in self._calls:
            self._calls[batch, length] = self._recorded_calls(batch, length)
        return self._calls[batch, length]

    def _recorded_calls(self, batch: int, length: int) -> list[LayerCall]:
        calls: list[LayerCall] = []
        tokens = torch.zeros((batch, length), dtype=torch.int64)
        layers = self.decoder.layers
        # The layers run, as models differ in what they take for a layer's output.
        with watching_calls(layers, lambda _place, _hidden, call: calls.append(call)):
            run_until(self._model, tokens, len(layers))
        return calls
