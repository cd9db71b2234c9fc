"""A model under training: its trainable parameters, their gradients and their optimiser.

`forward_backward` adds to the gradients, `optim_step` applies and clears them; `step` is both, for
the mean over the trained tokens. Where the batches come from, how many there are and what the
learning rate is, the caller decides: fine-tuning walks through epochs, a DiLoCo worker through the
shards it was given, a service through its clients' requests.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from foundry.engines.training.activations import ActivationBudget
from foundry.engines.training.decoder.casting import CastOnce
from foundry.engines.training.decoder.dropout import Draws
from foundry.engines.training.decoder.projection import Projection
from foundry.engines.training.decoder.routing import Adapter
from foundry.engines.training.objectives.head import Head
from foundry.engines.training.objectives.objective import LOSS, AnyObjective, combine_metrics
from foundry.engines.training.objectives.scoring import Score, score
from foundry.engines.training.objectives.supervised import CrossEntropy
from foundry.engines.training.optimisers.adamw import AdamW
from foundry.engines.training.optimisers.host import HostMasters
from foundry.engines.training.optimisers.params import AdamParams, Optimiser
from foundry.engines.training.optimisers.scaler import LossScaler
from foundry.engines.training.packing import Batch
from foundry.errors import TrainingDiverged


class CausalModel(Protocol):
    """Hidden states of flat token streams, and the projection to the vocabulary.

    Attributes:
        logit_softcap: logits are softcap·tanh(lm_head(hidden)/softcap); None: lm_head(hidden).
    """

    logit_softcap: float | None

    @property
    def lm_head(self) -> nn.Module:
        """Its weight has the shape (vocabulary, H)."""

    def __call__(self, tokens_T: Tensor, positions_T: Tensor, segments: Sequence[int]) -> Tensor:
        """Shape (T, H)."""

    def train(self, mode: bool = True) -> object: ...


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """One optimiser step.

    Attributes:
        loss: mean over the trained tokens, nats.
        grad_norm: before clipping; 0 if the update was skipped, because a float16 gradient had
            overflowed.
        tokens, trained_tokens: of all micro-batches.
    """

    loss: float
    grad_norm: float
    tokens: int
    trained_tokens: int


@dataclass(frozen=True, slots=True)
class PassOutcome:
    """One call of `forward_backward` or `forward`.

    Attributes:
        batches: what it was called with.
        target_log_probs: of each batch's targets, in their shape, on the model's device.
        metrics: by `name:reduction`; `loss:sum` is not divided by the denominator.
    """

    batches: tuple[Batch, ...]
    target_log_probs: tuple[Tensor, ...]
    metrics: Mapping[str, float]

    @property
    def log_probs(self) -> tuple[Tensor, ...]:
        """Of every segment's targets, in the order of the segments."""
        return tuple(
            part
            for batch, found in zip(self.batches, self.target_log_probs, strict=True)
            for part in torch.split(found, list(batch.targets_per_segment))
        )

    @property
    def loss(self) -> float:
        """Sum over all targets; 0 without any."""
        return self.metrics.get(LOSS, 0.0)


@dataclass(frozen=True, slots=True)
class UpdateOutcome:
    """One call of `optim_step`.

    Attributes:
        grad_norm: before clipping; infinite or not a number if the update was skipped.
        applied: False: a float16 gradient had overflowed, so nothing but the loss scale changed.
    """

    grad_norm: float
    applied: bool


class Learner:
    """Owns gradients and optimiser; parameters stay float32 whatever the forward pass computes in.

    Attributes:
        parameters: what is trained, by name; whoever writes to them does so in place.
        adam: what `step` uses, but for the learning rate.
        draws: dropout masks of this run; None: the model drops nothing.
        scaler: for float16; None: losses are not scaled.
        masters: keeps `parameters` in the host's memory; None: they are the model's own.
        budget: decides for each pass how many layers recompute; None: the model does.
    """

    def __init__(
        self,
        model: CausalModel,
        parameters: Mapping[str, nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        grad_clip: float,
        betas: tuple[float, float] = (0.9, 0.999),
        optimiser: Callable[[Mapping[str, nn.Parameter]], Optimiser] = AdamW,
        draws: Draws | None = None,
        scaler: LossScaler | None = None,
        masters: HostMasters | None = None,
        budget: ActivationBudget | None = None,
    ) -> None:
        self.parameters = dict(parameters)
        self.adam = AdamParams(
            lr=lr,
            beta1=betas[0],
            beta2=betas[1],
            eps=1e-8,
            weight_decay=weight_decay,
            grad_clip_norm=grad_clip,
        )
        self.draws = draws
        self.scaler = scaler
        self._masters = masters
        self._budget = budget
        self._model = model
        self._head_weight = CastOnce()
        self._optimiser = optimiser(self.parameters)
        # Of the gradients that wait for an update.
        self._loss = 0.0

    def step(self, batches: Sequence[Batch], lr: float) -> StepOutcome:
        """One update from the micro-batches of one batch.

        Raises:
            TrainingDiverged: loss or gradient is no finite number; no parameter has changed.
        """
        trained = sum(batch.trained_tokens for batch in batches)
        done = self.forward_backward(batches, denominator=max(trained, 1))
        update = self.optim_step(replace(self.adam, lr=lr))
        tokens = sum(len(batch.tokens_T) for batch in batches)
        norm = update.grad_norm if update.applied else 0.0
        return StepOutcome(done.loss / max(trained, 1), norm, tokens, trained)

    def forward_backward(
        self,
        batches: Sequence[Batch],
        objective: AnyObjective = CrossEntropy(),  # noqa: B008 - a frozen value
        *,
        denominator: float = 1.0,
    ) -> PassOutcome:
        """Add the gradient of the objective's sum over all batches, divided, to those that wait.

        Args:
            denominator: of the whole optimiser batch, such as its number of trained tokens. Of a
                micro-batch only, a short reply would weigh more in a small one than in a large one.
        """
        self._model.train()
        factor = (self.scaler.scale if self.scaler else 1.0) / denominator
        scores = []
        for batch in batches:
            if self.draws is not None:
                self.draws.begin_pass()
            if self._budget is not None:
                self._budget.apply(len(batch.tokens_T))
            found = self._score(batch, objective, factor)
            torch.autograd.backward(found.total)
            scores.append(replace(found, total=found.total.detach()))
        outcome = summarise(batches, scores)
        self.expect(outcome.loss / denominator)
        return outcome

    def expect(self, loss: float) -> None:
        """Note the loss whose gradient was added, which `optim_step` checks."""
        self._loss += loss

    @torch.no_grad()
    def forward(
        self,
        batches: Sequence[Batch],
        objective: AnyObjective = CrossEntropy(),  # noqa: B008 - a frozen value
    ) -> PassOutcome:
        """The same without gradient and dropout."""
        self._model.train(False)
        return summarise(batches, [self._score(batch, objective) for batch in batches])

    def optim_step(self, adam: AdamParams) -> UpdateOutcome:
        """Apply the gradients that wait, and clear them.

        Raises:
            TrainingDiverged: loss or gradient is no finite number; no parameter has changed.
        """
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        loss, self._loss = self._loss, 0.0
        try:
            if self.scaler is not None and gradients:
                self.scaler.unscale(gradients)
            norm = float(nn.utils.get_total_norm(gradients)) if gradients else 0.0
            if not self._may_apply(loss, norm, adam.lr):
                return UpdateOutcome(norm, applied=False)
            if adam.grad_clip_norm:
                nn.utils.clip_grads_with_norm_(
                    self.parameters.values(), adam.grad_clip_norm, torch.tensor(norm)
                )
            self._optimiser.step(adam)
            return UpdateOutcome(norm, applied=True)
        finally:
            for parameter in self.parameters.values():
                parameter.grad = None

    def _may_apply(self, loss: float, norm: float, lr: float) -> bool:
        """Whether the gradient is usable; False: a float16 gradient overflowed."""
        if math.isfinite(loss):
            if self.scaler is not None and (math.isfinite(norm) or not self.scaler.exhausted):
                return self.scaler.update(finite=math.isfinite(norm))
            if math.isfinite(norm):
                return True
        # float16 ends at 65,504, which activations of models made in bfloat16 can exceed.
        narrow = "set precision to float32, " if self.scaler is not None else ""
        raise TrainingDiverged(
            f"the training diverged: the loss is {loss:g} and the gradient norm {norm:g} at a "
            f"learning rate of {lr:g}; {narrow}lower lr, set grad_clip, warm up for longer, or "
            "look for bad rows in the dataset"
        )

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> float | None:
        """Mean loss over the trained tokens; None without any."""
        self._model.train(False)
        total, trained = 0.0, 0
        for batch in batches:
            total += self._score(batch, CrossEntropy()).total.item()
            trained += batch.trained_tokens
        return total / trained if trained else None

    def publish(self) -> None:
        """Bring the model up to `parameters` where those are kept apart."""
        if self._masters is not None:
            self._masters.publish()

    def optimiser_state(self) -> dict[str, Tensor]:
        """Moments and step counts, as `<kind>.<parameter>`."""
        return self._optimiser.state()

    def load_optimiser_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The reverse; a parameter without moments in `tensors` starts anew."""
        self._optimiser.load(tensors)

    def run_state(self) -> dict[str, Tensor]:
        """What else decides the next step: random numbers and the loss scale."""
        state = {}
        if self.draws is not None:
            state["random.passes"] = torch.tensor(self.draws.passes)
        if self.scaler is not None:
            state["scaler"] = self.scaler.state()
        return state

    def load_run_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The reverse; what `tensors` lacks stays as it is."""
        if self.draws is not None and "random.passes" in tensors:
            self.draws.passes = int(tensors["random.passes"])
        if self.scaler is not None and "scaler" in tensors:
            self.scaler.load(tensors["scaler"])

    def _score(self, batch: Batch, objective: AnyObjective, factor: float = 1.0) -> Score:
        self.publish()
        hidden_TH = self._model(batch.tokens_T, batch.positions_T, batch.segments)
        hidden_NH = hidden_TH.index_select(0, batch.sources_N)
        lm_head = self._model.lm_head
        adapter = lm_head.attached if isinstance(lm_head, Projection) else None
        head = read_head(self._model, hidden_NH, self._head_weight, adapter)
        return score(hidden_NH, head, batch, objective, factor)


def read_head(
    model: CausalModel,
    hidden_NH: Tensor,
    cast: CastOnce,
    adapter: Adapter | None,
    passes: int | None = None,
) -> Head:
    """The projection to the vocabulary as objectives take it.

    Args:
        cast: keeps the weight in the hidden states' type.
        adapter: of the projection, which drops its inputs while the model trains.
        passes: as of `Draws.mask`.
    """
    weight = cast(model.lm_head.get_parameter("weight"), hidden_NH.dtype)
    head = Head(weight, softcap=model.logit_softcap)
    if adapter is None:
        return head
    dropping = adapter.dropout and model.lm_head.training
    inputs = hidden_NH * adapter.mask(hidden_NH, passes) if dropping else hidden_NH
    low_NR = functional.linear(inputs, adapter.a_RI.to(hidden_NH.dtype)) * adapter.scale
    return replace(head, low_NR=low_NR, adapter_VR=adapter.b_OR)


def summarise(batches: Sequence[Batch], scores: Sequence[Score]) -> PassOutcome:
    """What a pass over several batches tells."""
    metrics = combine_metrics(
        [found.metrics for found in scores], [len(batch.targets_N) for batch in batches]
    )
    return PassOutcome(tuple(batches), tuple(found.log_probs_N for found in scores), metrics)
