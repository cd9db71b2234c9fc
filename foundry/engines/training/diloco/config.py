"""What a DiLoCo run is told. Imports no torch: the control plane validates these models."""

import hashlib
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from foundry.engines.training.config import Full, Ignored, Lora, SftConfig, is_said

Fragment = int | None
"""Number of a part of the model, from 0; None: the whole model."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fp32(_Frozen):
    """Outer gradients as they are."""

    kind: Literal["fp32"] = "fp32"


class Bf16(_Frozen):
    """The upper half of each float32, rounded to nearest even."""

    kind: Literal["bf16"] = "bf16"


class Int8(_Frozen):
    """Blocks of 256 values share a scale: 8.125 bits a value."""

    kind: Literal["int8"] = "int8"
    error_feedback: bool = True


class E3m0(_Frozen):
    """Sign and a 3-bit exponent, blocks of 256 share a scale: 4.0625 bits a value."""

    kind: Literal["e3m0"] = "e3m0"
    error_feedback: bool = True


class TopK(_Frozen):
    """The largest of every 4,096 values, each in 2 bits (SparseLoCo, arXiv:2508.15706).

    A density of 1/64 costs about 0.17 bits a value.
    """

    kind: Literal["topk"] = "topk"
    density: float = Field(default=1 / 64, ge=1 / 4096, le=0.25, description="share that is sent")
    error_feedback: bool = True
    decay: float = Field(
        default=1.0, gt=0, le=1, description="of the kept-back error, once a round"
    )


Codec = Annotated[Fp32 | Bf16 | Int8 | E3m0 | TopK, Field(discriminator="kind")]


class OuterConfig(_Frozen):
    """The outer optimiser and what travels between workers (DiLoCo, arXiv:2311.08105).

    Streaming DiLoCo (arXiv:2501.18512) is `fragments` > 1 with `overlap` and `mixing`; its
    authors use an outer learning rate of 0.4.
    """

    inner_steps: int = Field(
        default=100, ge=1, le=10_000, description="H: optimiser steps between two synchronisations"
    )
    lr: float = Field(default=0.7, gt=0, le=4, description="outer learning rate")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Nesterov")
    codec: Codec = Field(default=E3m0(), description="how outer gradients are written for the way")
    exchange: Literal["auto", "gather", "scatter"] = Field(
        default="auto",
        description="gather: everyone sends all to everyone; scatter: each worker reduces its "
        "part and sends that on, fewer bytes from 3 workers up; auto: whichever is less",
    )
    fragments: int = Field(
        default=1, ge=1, le=256, description="parts of the model, synchronised in turn"
    )
    overlap: int = Field(
        default=0, ge=0, description="inner steps trained while a fragment is on its way"
    )
    mixing: float = Field(
        default=0.0, ge=0, lt=1, description="share of its own weights that a worker keeps"
    )

    @model_validator(mode="after")
    def _fragments_fit(self) -> Self:
        if self.inner_steps % self.fragments:
            raise ValueError("inner_steps must be a multiple of fragments")
        if self.overlap >= self.interval:
            raise ValueError("overlap must be shorter than inner_steps / fragments")
        return self

    @property
    def interval(self) -> int:
        """Inner steps between two fragments."""
        return self.inner_steps // self.fragments


class FleetConfig(_Frozen):
    """Who takes part, and how long the others wait for them."""

    workers: int = Field(
        default=2, ge=1, le=1024, description="kept running: a lost one is replaced"
    )
    quorum: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="contributions that a round needs; unset: more than half of the workers",
    )
    grace_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="seconds a round waits for the rest once the quorum is there; whoever is later "
        "is merged with a later round. 0 with a quorum of 1: asynchronous",
    )
    silence_s: float = Field(
        default=3.0, gt=0, le=600, description="a worker that does not answer for so long is lost"
    )
    stall_s: float = Field(
        default=120.0,
        gt=0,
        le=86_400,
        description="a worker that makes no step for so long is lost",
    )
    link_mbit_s: float | None = Field(
        default=None,
        gt=0,
        description="the most that a worker receives, so that other traffic is not starved; "
        "unset: no limit",
    )
    checkpoint_every: int = Field(default=1, ge=1, description="rounds between two checkpoints")

    @model_validator(mode="after")
    def _quorum_exists(self) -> Self:
        if self.quorum is not None and self.quorum > self.workers:
            raise ValueError("quorum must not exceed workers")
        return self

    @property
    def needed(self) -> int:
        return self.quorum or self.workers // 2 + 1


class InnerConfig(SftConfig):
    """A worker's own training: as fine-tuning, with every weight and decay by default."""

    method: Annotated[Lora | Full, Field(discriminator="kind")] = Field(
        default=Full(), description="full: every weight; lora: adapters beside frozen weights"
    )
    weight_decay: float = Field(default=0.1, ge=0, le=1, description="decoupled, of AdamW")


class DilocoConfig(_Frozen):
    """Distributed fine-tuning. `inner.batch_size` is a worker's; its `max_steps` or `epochs`
    decide how many batches the workers train on together: max_steps x workers, or the epochs'."""

    inner: InnerConfig = Field(default=InnerConfig(), description="each worker's own training")
    outer: OuterConfig = Field(
        default=OuterConfig(), description="what workers exchange, and how it is applied"
    )
    fleet: FleetConfig = Field(
        default=FleetConfig(), description="who takes part, and how long the others wait"
    )

    def find_ignored(self, *, explicit: bool = False) -> Iterator[Ignored]:
        """Fields that were set and would be ignored. Args: explicit: as of `SftConfig`."""
        for found in self.inner.find_ignored(explicit=explicit):
            yield Ignored(("inner", *found.path), found.reason)
        reasons = {
            ("inner", "checkpoint_every"): "a fleet counts rounds: set fleet.checkpoint_every",
            ("inner", "log_every"): "a fleet reports every round, so leave it out",
            **self._unused_fields(),
        }
        for (section, field), reason in reasons.items():
            if is_said(getattr(self, section), field, explicit=explicit):
                yield Ignored((section, field), reason)
        codec = self.outer.codec
        keeps_nothing = isinstance(codec, TopK) and not codec.error_feedback
        if keeps_nothing and is_said(codec, "decay", explicit=explicit):
            reason = "without error_feedback nothing is kept back, so leave it out"
            yield Ignored(("outer", "codec", "decay"), reason)

    def _unused_fields(self) -> dict[tuple[str, str], str]:
        """Fields that a fleet of this size has no use for, with the reason."""
        unused: dict[tuple[str, str], str] = {}
        if self.fleet.workers == 1:
            reason = "one worker exchanges nothing, so leave it out or use more workers"
            unused |= {("outer", "exchange"): reason, ("fleet", "link_mbit_s"): reason}
        if self.fleet.needed >= self.fleet.workers:
            unused["fleet", "grace_s"] = (
                f"a round needs all {self.fleet.workers} workers, so there are no others to wait "
                "for: leave it out or set a smaller quorum"
            )
        return unused

    def digest(self) -> str:
        """SHA-256 of what decides the weights: not of waiting times, nor of how often to report."""
        document = "\n".join(
            (
                self.inner.digest(),
                self.outer.model_dump_json(),
                self.fleet.model_dump_json(include={"workers"}),
            )
        )
        return hashlib.sha256(document.encode()).hexdigest()
