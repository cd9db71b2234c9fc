"""Many adapters on one frozen base: several trainings share every pass.

Each adapter has its own rank, alpha and targets, its own gradients, optimiser and random numbers.
A pass takes requests of any of them: their streams are laid end to end, so the base multiplies all
rows that an adapter does not concern at once, and what comes back equals what separate passes give.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from foundry.engines.training.config import Lora
from foundry.engines.training.decoder import lora
from foundry.engines.training.decoder.casting import CastOnce
from foundry.engines.training.decoder.dropout import Draws
from foundry.engines.training.decoder.model import Decoder
from foundry.engines.training.decoder.projection import Projection
from foundry.engines.training.decoder.routing import Adapter, Route, Routing
from foundry.engines.training.files import whole_directory
from foundry.engines.training.learner import (
    Learner,
    PassOutcome,
    UpdateOutcome,
    read_head,
    summarise,
)
from foundry.engines.training.objectives.objective import AnyObjective
from foundry.engines.training.objectives.scoring import Score, score
from foundry.engines.training.objectives.supervised import CrossEntropy
from foundry.engines.training.optimisers.adamw import AdamW
from foundry.engines.training.optimisers.params import AdamParams, Optimiser
from foundry.engines.training.packing import Batch, join
from foundry.errors import Conflict, InvalidArtifact, NotFound


@dataclass(frozen=True, slots=True)
class Request:
    """What one adapter asks of a pass.

    Attributes:
        adapter: its name; None: the base alone, which learns nothing.
        batch: its own stream.
        denominator: as of `Learner.forward_backward`.
    """

    adapter: str | None
    batch: Batch
    objective: AnyObjective = CrossEntropy()  # noqa: RUF009 - a frozen value
    denominator: float = 1.0


@dataclass(frozen=True, slots=True)
class _Member:
    config: Lora
    learner: Learner
    draws: Draws


class AdapterBank:
    """Owns the adapters; the base stays as it is."""

    def __init__(self, model: Decoder) -> None:
        self._model = model
        self._members: dict[str, _Member] = {}
        self._routing = Routing()
        self._head_weight = CastOnce()
        model.requires_grad_(False)
        for module in model.modules():
            # The head sees the positions that predict only: `_score` routes them itself.
            if isinstance(module, Projection) and module is not model.lm_head:
                module.routing = self._routing

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._members)

    def add(
        self,
        name: str,
        config: Lora,
        *,
        seed: int,
        optimiser: Callable[[Mapping[str, nn.Parameter]], Optimiser] = AdamW,
    ) -> None:
        """An adapter that changes nothing yet.

        Raises:
            Conflict: there is one of this name.
            UnsupportedFeature: this architecture cannot have these adapters.
        """
        if name in self._members:
            raise Conflict(f"there is an adapter {name!r} already")
        self._model.config.check_adapter_targets(config.targets)
        targets = lora.find_targets(self._model, config.modules)
        generator, draws = torch.Generator().manual_seed(seed), Draws(seed)
        parameters: dict[str, nn.Parameter] = {}
        for place, (path, projection) in enumerate(targets):
            adapter = Adapter.fresh(
                projection.weight,
                rank=config.rank,
                alpha=config.alpha,
                dropout=config.dropout,
                generator=generator,
                draws=draws,
                place=place,
            )
            projection.bank[name] = adapter
            parameters |= {f"{path}.lora_A": adapter.a_RI, f"{path}.lora_B": adapter.b_OR}
        learner = Learner(
            self._model,
            parameters,
            lr=0.0,
            weight_decay=0.0,
            grad_clip=0.0,
            optimiser=optimiser,
            draws=draws,
        )
        self._members[name] = _Member(config, learner, draws)

    def load(self, name: str, adapter_dir: Path, *, seed: int) -> None:
        """An adapter in PEFT's format, with a new optimiser.

        Raises:
            InvalidArtifact: broken files, or weights that do not fit the base.
            UnsupportedFeature: a variant of LoRA that the decoder lacks.
            Conflict: there is one of this name.
        """
        config, tensors = lora.read_adapter(adapter_dir)
        self.add(name, config, seed=seed)
        try:
            lora.fill_parameters(self.parameters(name), tensors)
        except BaseException:
            self.remove(name)
            raise

    def remove(self, name: str) -> None:
        """Forget an adapter, its gradients and its optimiser. Raises NotFound."""
        self._member(name)
        del self._members[name]
        for module in self._model.modules():
            if isinstance(module, Projection):
                module.bank.pop(name, None)

    def export(self, name: str, target: Path) -> None:
        """Write an adapter as PEFT does; whole or not at all.

        Raises:
            NotFound: there is none of this name.
            DiskFull: nothing is left of the attempt.
        """
        member = self._member(name)
        with whole_directory(target) as staging:
            lora.export_parameters(member.learner.parameters, member.config, staging)

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """As `<projection>.lora_A` and `<projection>.lora_B`. Raises NotFound."""
        return self._member(name).learner.parameters

    def forward_backward(self, requests: Sequence[Request]) -> list[PassOutcome]:
        """One pass; each request's gradient is added to those of its adapter that wait.

        Raises:
            NotFound: a request names no adapter of the bank; nothing has changed.
        """
        self._model.train()
        try:
            scores = self._pass(requests, training=True)
            losses = [found.total for found in scores if found.total.requires_grad]
            if losses:
                torch.autograd.backward(losses)
        finally:
            self._routing.routes = ()
        outcomes = []
        for request, found in zip(requests, scores, strict=True):
            outcome = summarise([request.batch], [replace(found, total=found.total.detach())])
            if request.adapter is not None:
                learner = self._members[request.adapter].learner
                learner.expect(outcome.loss / request.denominator)
            outcomes.append(outcome)
        return outcomes

    @torch.no_grad()
    def forward(self, requests: Sequence[Request]) -> list[PassOutcome]:
        """The same without gradient and dropout. Raises NotFound."""
        self._model.train(False)
        try:
            scores = self._pass(requests, training=False)
        finally:
            self._routing.routes = ()
        return [
            summarise([request.batch], [found])
            for request, found in zip(requests, scores, strict=True)
        ]

    def optim_step(self, name: str, adam: AdamParams) -> UpdateOutcome:
        """As `Learner.optim_step`, of one adapter; raises the same, and NotFound."""
        return self._member(name).learner.optim_step(adam)

    def state(self, name: str) -> dict[str, Tensor]:
        """Everything that decides an adapter's next step, but its configuration. Raises NotFound.

        The tensors are the live ones.
        """
        learner = self._member(name).learner
        weights = {f"parameter.{key}": p.detach() for key, p in learner.parameters.items()}
        return weights | learner.optimiser_state() | learner.run_state()

    @torch.no_grad()
    def load_state(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """The reverse, into an adapter of the same configuration.

        Raises:
            NotFound: there is none of this name.
            InvalidArtifact: the state is of another configuration; nothing has changed.
        """
        learner = self._member(name).learner
        _check_shapes(learner.parameters, tensors)
        for key, parameter in learner.parameters.items():
            parameter.copy_(tensors[f"parameter.{key}"])
        learner.load_optimiser_state(tensors)
        learner.load_run_state(tensors)

    def _member(self, name: str) -> _Member:
        if name not in self._members:
            raise NotFound(f"there is no adapter {name!r}")
        return self._members[name]

    def _pass(self, requests: Sequence[Request], *, training: bool) -> list[Score]:
        """Hidden states of all requests in one call, then each one's objective."""
        if not requests:
            return []
        for request in requests:
            if request.adapter is not None:
                self._member(request.adapter)
        self._routing.routes = tuple(self._route(request, training) for request in requests)
        stream = join([replace(request.batch, values={}) for request in requests])
        hidden_TH = self._model(stream.tokens_T, stream.positions_T, stream.segments)
        parts = torch.split(hidden_TH, self._routing.sizes)
        return [
            self._score(part_TH, request, route)
            for part_TH, request, route in zip(parts, requests, self._routing.routes, strict=True)
        ]

    def _route(self, request: Request, training: bool) -> Route:
        passes = 0
        if request.adapter is not None:
            draws = self._members[request.adapter].draws
            if training:
                draws.begin_pass()
            passes = draws.passes
        return Route(request.adapter, len(request.batch.tokens_T), passes)

    def _score(self, hidden_TH: Tensor, request: Request, route: Route) -> Score:
        hidden_NH = hidden_TH.index_select(0, request.batch.sources_N)
        adapter = self._model.lm_head.bank.get(request.adapter or "")
        head = read_head(self._model, hidden_NH, self._head_weight, adapter, route.passes)
        return score(hidden_NH, head, request.batch, request.objective, 1 / request.denominator)


def _check_shapes(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a state that does not fit: copying would spread it, the optimiser write beyond it."""
    shapes = {key: parameter.shape for key, parameter in parameters.items()}
    found = {
        key.removeprefix("parameter."): value.shape
        for key, value in tensors.items()
        if key.startswith("parameter.")
    }
    if found != shapes:
        wrong = min(k for k in shapes.keys() | found.keys() if shapes.get(k) != found.get(k))
        raise InvalidArtifact(f"the state does not fit the adapter: {wrong}")
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind in ("exp_avg", "exp_avg_sq") and value.shape != shapes.get(name):
            raise InvalidArtifact(f"the state does not fit the adapter: {key}")
