"""The simulators against the formulas that are exact for them."""

from dataclasses import dataclass

import numpy as np

from foundry.engines.budsim.batching import EngineLimits
from foundry.engines.budsim.queueing import mg1_wait, mmc_wait
from foundry.engines.budsim.simulator import Router, simulate, simulate_queue
from foundry.engines.budsim.traces import Trace

# Tokens of a mean prompt: so many that rounding to whole tokens does not show.
_TOKENS = 4000


@dataclass(frozen=True)
class PerToken:
    """A step costs so many seconds per prompt token, and nothing else."""

    seconds: float

    def step_s(
        self, prefill_tokens: float, prefill_context: float, decodes: float, decode_context: float
    ) -> float:
        return self.seconds * prefill_tokens


def single_token_trace(customers: int, rate: float, service_scv: float, seed: int) -> Trace:
    """Poisson arrivals of prompts with gamma lengths of mean _TOKENS; each yields one token."""
    generator = np.random.default_rng(seed)
    lengths = generator.gamma(1 / service_scv, service_scv * _TOKENS, customers)
    return Trace(
        arrival_s=np.cumsum(generator.exponential(1 / rate, customers)),
        prompt_tokens=np.maximum(np.rint(lengths), 1).astype(np.int64),
        output_tokens=np.ones(customers, dtype=np.int64),
    )


def batching_wait(trace: Trace, servers: int, router: Router) -> float:
    """Mean wait of a deployment whose engines hold one sequence; a mean prompt takes 1 s."""
    limits = EngineLimits(
        max_num_seqs=1,
        max_num_batched_tokens=8192,
        kv_tokens=int(trace.prompt_tokens.max()) + 16,
        replicas=servers,
    )
    run = simulate(trace, PerToken(1 / _TOKENS), limits, router=router)
    return float(run.queue_s.mean())


def queueing_error(
    customers: int = 500_000, station_customers: int = 2_000_000
) -> dict[str, float]:
    """Relative errors of mean waits, as fractions; a mean service takes 1 s.

    `mg1_error` and `mmc_error` are the continuous-batching simulator where it degenerates to
    M/G/1 (one sequence at a time, service SCV 0.5, utilization 0.5) and to M/M/2 (shared queue,
    utilization 0.6). The station's are `simulate_queue` with M/G/1 (SCV 2) and M/M/4, both at
    utilization 0.6. At the default sizes the first two have standard errors of 0.6 and 1.1 %.
    """
    mg1 = batching_wait(single_token_trace(customers, 0.5, 0.5, seed=1), 1, "round_robin")
    mmc = batching_wait(single_token_trace(customers, 1.2, 1.0, seed=2), 2, "shared")
    generator = np.random.default_rng(3)
    gaps = generator.exponential(1.0, station_customers)
    heavy = simulate_queue(np.cumsum(gaps / 0.6), generator.gamma(0.5, 2.0, station_customers))
    light = simulate_queue(
        np.cumsum(gaps / 2.4), generator.exponential(1.0, station_customers), servers=4
    )
    return {
        "mg1_error": _relative(mg1, float(mg1_wait(0.5, 1.0, 0.5))),
        "mmc_error": _relative(mmc, float(mmc_wait(1.2, 1.0, 2))),
        "station_mg1_error": _relative(float(heavy.mean()), float(mg1_wait(0.6, 1.0, 2.0))),
        "station_mmc_error": _relative(float(light.mean()), float(mmc_wait(2.4, 1.0, 4))),
    }


def _relative(measured: float, exact: float) -> float:
    return abs(measured / exact - 1)
