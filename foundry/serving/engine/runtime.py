"""What an engine can be asked for: the rules that the API and the supervisor both read.

Light to import and free of Ray, so the control plane answers with every reason at the call. What
builds and asks the engine itself is the supervisor's `Runtime`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from foundry.config import ServingSettings
from foundry.serving.engine.hardware import Hardware
from foundry.serving.engine.limits import (
    find_architecture_faults,
    find_limit_faults,
    find_missing_dtype,
)
from foundry.serving.engine.options import EngineOptions, serving_of
from foundry.serving.engine.shape import (
    ModelShape,
    find_context_faults,
    find_head_faults,
    find_missing_memory,
)


@dataclass(frozen=True, slots=True)
class Report:
    """Whether a configuration can run.

    Attributes:
        reasons: why it never works.
        missing: what this cluster lacks for it now.
    """

    reasons: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.reasons and not self.missing


class RuntimeRules(Protocol):
    """What a kind of engine supports, and how its options are called."""

    def supports(
        self,
        config: Mapping[str, Any],
        hardware: Hardware | None,
        *,
        model: ModelShape | None = None,
    ) -> Report:
        """Every reason at once.

        Args:
            hardware: None: unknown; only what holds everywhere is checked.
            model: its shape; None: unknown.
        """

    def translate(self, config: Mapping[str, Any], *, on_cpu: bool) -> dict[str, Any]:
        """The engine's own arguments."""


class VllmRules:
    """vLLM's side of `RuntimeRules`."""

    def __init__(self, serving: ServingSettings | None = None) -> None:
        """Remember the defaults.

        Args:
            serving: what holds where a configuration says nothing; None: as shipped.
        """
        self._serving = serving or ServingSettings()

    def supports(
        self,
        config: Mapping[str, Any],
        hardware: Hardware | None,
        *,
        model: ModelShape | None = None,
    ) -> Report:
        options = EngineOptions.of(config)
        reasons = list(options.faults())
        model = model or ModelShape()
        longest, context = config.get("max_model_len"), model.context_length
        if context is not None and isinstance(longest, int) and longest > context:
            reasons.append(
                f"max_model_len {longest} is more than the model's context of {context}: "
                f"configure at most {context}"
            )
        if model.spec is not None:
            reasons += find_head_faults(options, model.spec)
        reasons += find_limit_faults(serving_of(self._serving, config), options)
        reasons += find_architecture_faults(model.architectures)
        if hardware is None:
            return Report(tuple(reasons))
        reasons += find_context_faults(config, model, self._serving, hardware)
        missing = options.lacks(hardware)
        missing += find_missing_dtype(serving_of(self._serving, config), options, hardware)
        missing += find_missing_memory(config, model, self._serving, hardware)
        return Report(tuple(reasons), tuple(missing))

    def translate(self, config: Mapping[str, Any], *, on_cpu: bool) -> dict[str, Any]:
        return EngineOptions.of(config).arguments(on_cpu=on_cpu)


def fits_beside(options: EngineOptions, hardware: Hardware) -> bool:
    """Whether all replicas fit into what is free, so that an old engine may go on meanwhile.

    An engine on CPUs that names no `cpu_cores` takes every core: beside another both crawl.
    """
    if hardware.on_cpu and options.cpu_cores is None:
        return False
    need = options.need(on_cpu=hardware.on_cpu)
    return sum(node.holds(need) for node in hardware.free) >= options.replicas
