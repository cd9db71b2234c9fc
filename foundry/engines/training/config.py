"""What a fine-tuning run is told. Imports no torch: the control plane validates these models."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from foundry.engines.training.precision import Asked

TargetGroup = Literal["attn", "mlp", "unembed"]

# Names of a decoder's projections. A family has those side by side or the fused ones (Phi-3); both
# PEFT and vLLM put one adapter on a fused projection.
TARGET_MODULES: dict[TargetGroup, tuple[str, ...]] = {
    "attn": ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "gate_up_proj", "down_proj"),
    "unembed": ("lm_head",),
}


@dataclass(frozen=True, slots=True)
class Ignored:
    """A field that was set and decides nothing.

    Attributes:
        path: of the field in the configuration.
        reason: what decides instead, and what to do.
    """

    path: tuple[str, ...]
    reason: str


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(_Frozen):
    """Low-rank adapters beside frozen weights (arXiv:2106.09685)."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1, le=256, description="inner dimension of the two factors")
    alpha: int = Field(default=32, ge=1, le=1024, description="the update is scaled by alpha/rank")
    dropout: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="share of the adapter's inputs that is dropped"
    )
    targets: tuple[TargetGroup, ...] = Field(
        default=("attn", "mlp"),
        min_length=1,
        max_length=3,
        description="what gets an adapter: attention, the feed-forward layers, and the projection "
        "to the vocabulary, which a base with tied embeddings does not have",
    )

    @property
    def modules(self) -> tuple[str, ...]:
        """The projections that get an adapter where a model has them, in a decoder's order."""
        return tuple(
            module
            for group, modules in TARGET_MODULES.items()
            if group in self.targets
            for module in modules
        )


class Full(_Frozen):
    """Every weight is trained."""

    kind: Literal["full"] = "full"


OptimiserName = Literal["adamw", "adamw-8bit"]

_LATER_FIELDS = ("optimiser", "offload")
_EPOCHS = 3
_MICRO_BATCH = 8


class SftConfig(_Frozen):
    """Supervised fine-tuning. One batch is one optimiser step."""

    method: Annotated[Lora | Full, Field(discriminator="kind")] = Field(
        default=Lora(), description="lora: adapters beside frozen weights; full: every weight"
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description=f"passes over the training rows; unset: {_EPOCHS}, or as max_steps says",
    )
    max_steps: int | None = Field(default=None, ge=1, description="instead of epochs")
    batch_size: int = Field(
        default=8, ge=1, le=4096, description="sequences, or packs, per optimiser step"
    )
    micro_batch_size: int = Field(
        default=_MICRO_BATCH,
        ge=1,
        le=4096,
        description=f"sequences, or packs, held in memory at once; unset: {_MICRO_BATCH}, or "
        "batch_size if that is less",
    )
    max_seq_len: int = Field(default=1024, ge=8, le=131_072, description="tokens")
    too_long: Literal["error", "drop", "truncate"] = Field(
        default="error", description="what happens to a row of more than max_seq_len tokens"
    )
    packing: bool = Field(default=False, description="fill sequences of max_seq_len tokens")
    lr: float = Field(default=2e-4, gt=0, le=1, description="highest learning rate")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="how the learning rate falls after the warm-up"
    )
    warmup_ratio: float = Field(
        default=0.03, ge=0, lt=1, description="share of the steps in which the learning rate rises"
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="decoupled, of AdamW")
    optimiser: OptimiserName = Field(
        default="adamw",
        description="adamw: moments of 8 bytes a trained value; adamw-8bit: of 2",
    )
    offload: bool = Field(
        default=False,
        description="keep the trained weights' float32 copies, their gradients and moments in the "
        "host's memory: less of an accelerator's, and slower steps",
    )
    grad_clip: float = Field(default=1.0, ge=0, description="maximum gradient norm; 0: off")
    precision: Asked = Field(
        default="auto",
        description="number format of activations and frozen weights; auto: the device's best",
    )
    activation_checkpointing: bool = Field(
        default=False, description="recompute activations: less memory, a third more time"
    )
    activation_budget: Annotated[int, Field(ge=0)] | Literal["auto"] | None = Field(
        default=None,
        description="bytes that activations may take, beyond which layers recompute theirs, as few "
        "as will do for each micro-batch; auto: most of what is free; unset: none does",
    )
    seed: int = Field(default=0, ge=0, lt=2**63)
    checkpoint_every: int = Field(default=50, ge=1, description="optimiser steps")
    eval_every: int | None = Field(
        default=None, ge=1, description="optimiser steps; unset: once, at the end"
    )
    log_every: int = Field(default=1, ge=1, description="optimiser steps")

    @model_validator(mode="before")
    @classmethod
    def _fit_micro_batch(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "micro_batch_size" in values:
            return values
        size = values.get("batch_size")
        if isinstance(size, int) and 0 < size < _MICRO_BATCH:
            return values | {"micro_batch_size": size}
        return values

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> Self:
        if self.micro_batch_size > self.batch_size:
            raise ValueError("micro_batch_size must not exceed batch_size")
        return self

    @property
    def num_epochs(self) -> int:
        """Passes over the data; only counted where `max_steps` is unset."""
        return self.epochs or _EPOCHS

    def find_ignored(self, *, explicit: bool = False) -> Iterator[Ignored]:
        """Fields that were set and would be ignored.

        Args:
            explicit: also those that were set to their defaults; not for a configuration that a
                client has written out in full.
        """
        if self.max_steps is not None and is_said(self, "epochs", explicit=explicit):
            yield Ignored(
                ("epochs",), "max_steps says how long the run is, so leave one of the two out"
            )
        if self.activation_checkpointing and is_said(self, "activation_budget", explicit=explicit):
            yield Ignored(
                ("activation_budget",),
                "activation_checkpointing recomputes every layer, so leave one of the two out",
            )

    def digest(self) -> str:
        """SHA-256 of everything that decides the weights: not of memory or how often to report."""
        whole = self.model_copy(update={"epochs": self.num_epochs})
        silent = {"checkpoint_every", "eval_every", "log_every", "activation_budget"}
        # Runs from before there was a choice are the same run still.
        silent |= {name for name in _LATER_FIELDS if not is_said(self, name, explicit=False)}
        document = whole.model_dump_json(exclude=silent)
        return hashlib.sha256(document.encode()).hexdigest()


def is_said(model: BaseModel, field: str, *, explicit: bool) -> bool:
    """Whether a field was set, to something else than its default unless `explicit`."""
    value = getattr(model, field)
    if value is None or field not in model.model_fields_set:
        return False
    return explicit or value != type(model).model_fields[field].default
