"""A fleet's checkpoint in the object store: one file per member, one for the state they share."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from foundry.engines.training.diloco.ledger import Shard
from foundry.engines.training.diloco.replica import GlobalState, Replica, Residuals
from foundry.engines.training.learner import Learner
from foundry.errors import Conflict, InvalidArtifact
from foundry.execution.workers.diloco.messages import RoundPlan, Snapshot, StoredState
from foundry.infra.objects import ObjectStore
from foundry.infra.scratch import scratch_directory

Values = NDArray[np.float32]
_PARAMETER, _OPTIMISER, _RUN = "parameter.", "optimiser.", "run."


@dataclass(frozen=True, slots=True)
class Work:
    """Training that is in no committed round yet."""

    batches: int = 0
    tokens: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0

    def plus(self, tokens: int, loss: float, seconds: float) -> "Work":
        return Work(
            self.batches + 1, self.tokens + tokens, self.loss_sum + loss, self.seconds + seconds
        )

    def minus(self, other: "Work") -> "Work":
        if other.batches == self.batches:
            return Work()
        return Work(
            self.batches - other.batches,
            self.tokens - other.tokens,
            self.loss_sum - other.loss_sum,
            self.seconds - other.seconds,
        )


@dataclass(frozen=True, slots=True)
class OwnState:
    """Everything of one member that the others do not have.

    Attributes:
        tensors: live parameters, optimiser, residuals, random numbers; copies, on the CPU.
        unsent: tokens that moved each fragment since it was last merged.
        threads: of its arithmetic.
        plan, done: what it was on, and how many of its batches are trained.
    """

    tensors: Mapping[str, Tensor]
    round: int
    work: Work
    unsent: tuple[int, ...]
    threads: int
    plan: RoundPlan | None
    done: int

    @classmethod
    def of(
        cls,
        learner: Learner,
        replica: Replica,
        *,
        round: int,
        work: Work,
        unsent: Sequence[int],
        threads: int,
        plan: RoundPlan | None,
        done: int,
    ) -> Self:
        tensors = {f"{_PARAMETER}{name}": _copy(p) for name, p in learner.parameters.items()}
        for name, value in learner.optimiser_state().items():
            tensors[f"{_OPTIMISER}{name}"] = _copy(value)
        tensors["residual.offered"] = torch.from_numpy(replica.residuals.offered.copy())
        tensors["residual.forwarded"] = torch.from_numpy(replica.residuals.forwarded.copy())
        for name, value in learner.run_state().items():
            tensors[f"{_RUN}{name}"] = _copy(value)
        return cls(tensors, round, work, tuple(unsent), threads, plan, done)

    def load_into(self, learner: Learner, replica: Replica, state: GlobalState) -> None:
        with torch.no_grad():
            for name, parameter in learner.parameters.items():
                parameter.copy_(self.tensors[f"{_PARAMETER}{name}"])
        learner.load_optimiser_state(self._tensors_of(_OPTIMISER))
        learner.load_run_state(self._tensors_of(_RUN))
        offered, forwarded = (
            self.tensors[f"residual.{name}"].numpy() for name in ("offered", "forwarded")
        )
        replica.restore(state, Residuals(offered, forwarded))

    def _tensors_of(self, prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): value
            for name, value in self.tensors.items()
            if name.startswith(prefix)
        }

    def document(self) -> dict[str, Any]:
        """What is not a tensor, as JSON values."""
        return {
            "round": self.round,
            "work": asdict(self.work),
            "unsent": self.unsent,
            "threads": self.threads,
            "plan": asdict(self.plan) if self.plan else None,
            "done": self.done,
        }

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> Self:
        found = document["plan"]
        plan = None
        if found is not None:
            shards = tuple(Shard(**shard) for shard in found["shards"])
            plan = replace(RoundPlan(**{**found, "shards": ()}), shards=shards)
        return cls(
            tensors,
            document["round"],
            Work(**document["work"]),
            tuple(document["unsent"]),
            document["threads"],
            plan,
            document["done"],
        )


class Snapshots:
    """Files under one prefix, named by their digests.

    Args:
        prefix: of all keys, such as the job's.
    """

    def __init__(self, objects: ObjectStore, prefix: str) -> None:
        self._objects = objects
        self._prefix = prefix

    async def write(self, own: OwnState, state: GlobalState | None, run: str) -> Snapshot:
        """Keep a member's state, and the shared state if this member was chosen for it.

        Args:
            state: kept as well, if there is one.
            run: identifies the run's settings.

        Raises:
            DiskFull: there is no room; older checkpoints stay.
        """
        document = {"run": run, **own.document()}
        stored = await self._put(dict(own.tensors), document)
        if state is None:
            return Snapshot(stored)
        tensors = {
            "theta": torch.from_numpy(state.theta),
            "velocity": torch.from_numpy(state.velocity),
        }
        return Snapshot(stored, await self._put(tensors, {"run": run}))

    async def read(self, snapshot: Snapshot, run: str) -> tuple[OwnState, GlobalState]:
        """Fetch what `write` has kept.

        Raises:
            InvalidArtifact: a file is damaged.
            Conflict: it is of a run with other settings.
            NotFound: the object store has lost a file.
        """
        if snapshot.shared is None:
            raise InvalidArtifact("a checkpoint names no outer parameters: use an older one")
        tensors, document = await self._get(snapshot.own)
        shared, _ = await self._get(snapshot.shared)
        if document["run"] != run:
            raise Conflict("the checkpoint is of a run with other settings: start a new job")
        state = GlobalState(shared["theta"].numpy(), shared["velocity"].numpy())
        return OwnState.read(tensors, document), state

    async def delete(self, stored: StoredState) -> None:
        await self._objects.delete(stored.object_key)

    async def _put(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> StoredState:
        with scratch_directory("fleet") as folder:
            path = folder / "state.safetensors"
            metadata = {"document": json.dumps(document, sort_keys=True)}
            await asyncio.to_thread(save_file, tensors, path, metadata)
            digest = await asyncio.to_thread(_sha256, path)
            key = f"{self._prefix}/{digest}"
            if not await self._objects.exists(key):
                try:
                    await self._objects.put_file(key, path)
                except Conflict:
                    # Another attempt has just put the same bytes there.
                    return StoredState(key, digest)
        return StoredState(key, digest)

    async def _get(self, stored: StoredState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        with scratch_directory("fleet") as folder:
            path = folder / "state.safetensors"
            await self._objects.get_file(stored.object_key, path)
            if await asyncio.to_thread(_sha256, path) != stored.sha256:
                raise InvalidArtifact(f"the checkpoint {stored.object_key} is damaged")
            try:
                return await asyncio.to_thread(_load, path)
            except SafetensorError as error:
                raise InvalidArtifact(
                    f"the checkpoint {stored.object_key} cannot be read: {error}"
                ) from error


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, "pt") as file:
        document: dict[str, Any] = json.loads(file.metadata()["document"])
    return load_file(path), document


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
