"""The losses of a distillation, ready for a training loop."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import mse_loss
from transformers import PreTrainedModel

from lpsteps.distillation.divergence import (
    OutputHead,
    TeacherTargets,
    top_divergence,
    top_targets,
    vocabulary_divergence,
)
from lpsteps.distillation.parametrisation import TrainablePatches
from lpsteps.distillation.settings import DistillationSettings
from lpsteps.distillation.split_model import SplitModel
from lpsteps.errors import LpstepsError
from lpsteps.models.surgery import check_plan
from lpsteps.patches import PatchSet
from lpsteps.plan import Plan


class Distiller:
    """A dense model as the teacher of the patches of its pruned self.

    A loss is the mean over all positions of a batch, so a window's share of it does not depend on
    the other windows, up to rounding. Where the last position's next token lies outside the window,
    the teacher's distribution is a target all the same.

    Attributes:
        parameters: What is trained, float32, in a fixed order and under stable names.
        branch: The layer whose input is stored, where teacher and student part.
    """

    parameters: dict[str, nn.Parameter]
    branch: int

    def __init__(
        self,
        model: PreTrainedModel,
        plan: Plan,
        start: PatchSet,
        settings: DistillationSettings,
        *,
        seed: int,
    ) -> None:
        """Set up teacher and student.

        Args:
            model: The dense model, in evaluation mode, in the dtype to compute in. From here on
                none of its weights requires a gradient, and on a processor its attention is that
                of :mod:`lpsteps.models.causal_attention`; it does not change otherwise.
            plan: The removed layers.
            start: The patches where the training starts.
            settings: Objective and parametrisation.
            seed: Seed of what the parametrisation draws at random.

        Raises:
            LpstepsError: The plan removes nothing, plan or start do not belong to the model, the
                start does not fit the parametrisation or the objective, or ``top_k`` does not fit
                the vocabulary.
        """
        if not plan.gaps:
            raise LpstepsError("plan: layers: []: nothing is removed, so nothing can be distilled")
        check_plan(model, plan, start)
        if settings.objective == "feature_mse":
            _check_reads_dense_states(start)
        self._settings = settings
        self._plan = plan
        hidden_size = model.config.get_text_config().hidden_size
        self._patches = TrainablePatches(start, plan, hidden_size, settings, seed).to(model.device)
        self._split = SplitModel(
            model,
            plan,
            start,
            self._patches,
            activation_checkpointing=settings.activation_checkpointing,
        )
        self._head = OutputHead(self._split.decoder)
        vocabulary = self._head.vocabulary
        largest = vocabulary - 1 if settings.tail else vocabulary
        if settings.top_k is not None and settings.top_k > largest:
            raise LpstepsError(
                f"top_k: {settings.top_k}: the model has {vocabulary} tokens; use at most "
                f"{largest}, or null for all of them"
            )
        self.parameters = self._patches.trained
        self.branch = self._split.branch

    def fused_loss(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch; teacher and student run here.

        Args:
            tokens: Token ids, int64 ``[batch, length]``, on any device.

        Returns:
            A scalar, float32, with a gradient for :attr:`parameters`.
        """
        if self._settings.objective == "feature_mse":
            return self._feature_loss(tokens)
        hidden = self._split.shared(tokens)
        teacher_rows = self._split.teacher(hidden)
        if self._settings.top_k is None:
            return vocabulary_divergence(self._head, self._split.student(hidden), teacher_rows)
        targets = top_targets(
            self._head, teacher_rows, self._settings.top_k, normalised=self._settings.tail
        )
        return self._top_loss(hidden, targets)

    def stored_loss(
        self, tokens: torch.Tensor, targets: TeacherTargets, hidden: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the loss of a batch whose targets are known; only the student runs here.

        Args:
            tokens: Token ids, int64 ``[batch, length]``, on any device.
            targets: The teacher's, ``[batch, length, K]``, on any device.
            hidden: What enters the branch, ``[batch, length, hidden_size]``, in the model's dtype,
                on any device; None computes it from the tokens.

        Returns:
            The same as :meth:`fused_loss` on the same batch.
        """
        device = self._split.device
        hidden = self._split.shared(tokens) if hidden is None else hidden.to(device)
        here = TeacherTargets(targets.log_probabilities.to(device), targets.indices.to(device))
        return self._top_loss(hidden, here)

    def targets(self, tokens: torch.Tensor) -> tuple[TeacherTargets, torch.Tensor]:
        """Return what :meth:`stored_loss` needs, both on the model's device.

        Args:
            tokens: Token ids, int64 ``[batch, length]``, on any device.

        Returns:
            The teacher's ``top_k`` targets, and what enters the branch,
            ``[batch, length, hidden_size]`` in the model's dtype.

        Raises:
            LpstepsError: The settings ask for the whole vocabulary.
        """
        if self._settings.top_k is None:
            raise LpstepsError("top_k: null: only a number of targets can be stored; give one")
        hidden = self._split.shared(tokens)
        rows = self._split.teacher(hidden)
        return top_targets(self._head, rows, self._settings.top_k, normalised=True), hidden

    def heldout(self, tokens: torch.Tensor) -> HeldOut:
        """Return a measure of the student on windows that it is not trained on.

        Args:
            tokens: Token ids, int64 ``[windows, length]``.
        """
        batch = self._settings.micro_batch or self._settings.batch
        return HeldOut(self._split, self._head, tokens, batch)

    def patch_set(self) -> PatchSet:
        """Return copies of the patches as they are, beside the start's replacements."""
        return self._patches.patch_set()

    def _top_loss(self, hidden: torch.Tensor, targets: TeacherTargets) -> torch.Tensor:
        rows = self._split.student(hidden)
        return top_divergence(self._head, rows, targets, tail=self._settings.tail)

    def _feature_loss(self, tokens: torch.Tensor) -> torch.Tensor:
        """Mean squared error behind the patches, each on the dense model's own activations."""
        gaps = self._plan.gaps
        states = self._split.dense_states(tokens, {place for gap in gaps for place in gap})
        losses = []
        for start, end in gaps:
            source = self._split.student_states(states[start], start, end)
            # In float32, so that the patch's output is not rounded to the model's dtype.
            losses.append(mse_loss(self._patches(source.float(), end), states[end].float()))
        return torch.stack(losses).mean()


def _check_reads_dense_states(start: PatchSet) -> None:
    """Check that the dense model's hidden states are what the patches of a start read.

    Raises:
        LpstepsError: The start replaces weights that are in front of a patch, or may be.
    """
    restored = tuple(f"layers.{layer}." for layer in start.restored)
    changed = [name for name in start.replacements if not name.startswith(restored)]
    if changed:
        raise LpstepsError(
            f"start: replacements: {min(changed)}: a surviving layer with other weights gives the "
            "patch another input than the dense model's, on which objective feature_mse trains it; "
            "use objective logits_kl, or a start that changes no surviving layer"
        )


class HeldOut:
    """How far the student is from the teacher on some windows, whatever it is trained on.

    What does not change in the training is computed once and kept in main memory: the teacher's
    normalised rows and what enters the branch.
    """

    def __init__(
        self, split: SplitModel, head: OutputHead, tokens: torch.Tensor, batch: int
    ) -> None:
        """Run the teacher.

        Args:
            split: Teacher and student.
            head: That of both.
            tokens: Token ids, int64 ``[windows, length]``.
            batch: Windows per pass.
        """
        self._split = split
        self._head = head
        self._batches: list[tuple[torch.Tensor, torch.Tensor]] = []
        for start in range(0, len(tokens), batch):
            hidden = split.shared(tokens[start : start + batch])
            self._batches.append((hidden.cpu(), split.teacher(hidden).cpu()))
        self._windows = len(tokens)

    @torch.no_grad()
    def kl(self) -> float:
        """Return ``KL(teacher || student)`` over the whole vocabulary, in nats per position."""
        device = self._split.device
        total = 0.0
        for hidden, teacher_rows in self._batches:
            rows = self._split.student(hidden.to(device))
            divergence = vocabulary_divergence(self._head, rows, teacher_rows.to(device))
            total += divergence.item() * len(hidden)
        return total / self._windows
