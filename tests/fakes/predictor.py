"""A predictor of a few lines: a roofline without a regressor, fast and exactly known."""

from dataclasses import dataclass

import numpy as np

from foundry.engines.budsim.architecture import WEIGHT_BYTES, ModelSpec
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configuration, Configurations, Floats, Ints
from foundry.engines.budsim.memory import memory_map
from foundry.engines.budsim.prediction import Estimates, Predictions
from foundry.engines.budsim.request import QUANTIZATIONS, ClusterSpec, Method, Workload
from foundry.engines.budsim.search.support import weight_format


@dataclass(frozen=True)
class FakeBreakdown:
    """Terms of one configuration, ms."""

    ttft_ms: dict[str, float]
    tpot_ms: dict[str, float]


@dataclass(frozen=True)
class FakeTerms:
    """Terms of N configurations, ms, and what follows from them."""

    ttft_ms: dict[str, Floats]
    tpot_ms: dict[str, Floats]
    throughput: Floats
    utilization: Floats
    slots: Ints


@dataclass
class FakePredictor:
    """`spread` is the half width of every interval in logs, `learnt` a factor on the terms;
    `calls` counts predictions."""

    spread: float = 0.1
    learnt: float = 1.0
    calls: int = 0
    rows: int = 0
    version: str = "fake-1"

    def predict(
        self,
        spec: ModelSpec,
        configurations: Configurations,
        workload: Workload,
        *,
        catalogue: Catalogue,
        groups: ClusterSpec | None = None,
        confidence: float = 0.9,
        method: Method = "REGRESSOR",
    ) -> Predictions:
        self.calls += 1
        self.rows += len(configurations)
        rows = configurations
        terms = self.terms(spec, rows, workload, catalogue)
        ttft = np.sum([*terms.ttft_ms.values()], axis=0) * self.learnt / 1e3
        tpot = np.sum([*terms.tpot_ms.values()], axis=0) * self.learnt / 1e3
        throughput = terms.throughput
        hourly = self._prices(configurations, catalogue, groups) * rows.tp * rows.pp * rows.replicas
        longest = memory_map(spec, catalogue, rows, rows.max_model_len.astype(np.float64))
        return Predictions(
            ttft_p50_ms=self._estimates(ttft * 1e3),
            ttft_p95_ms=self._estimates(ttft * 1.8e3),
            tpot_ms=self._estimates(tpot * 1e3),
            latency_p95_ms=self._estimates((ttft * 1.8 + workload.output.p95 * tpot) * 1e3),
            throughput_tps=self._estimates(throughput),
            cost_per_hour=hourly,
            cost_per_mtok=self._estimates(hourly / throughput / 3600 * 1e6),
            fits=longest.slots >= 1,
            slots=terms.slots,
            utilization=terms.utilization,
            novelty=np.zeros(len(rows), dtype=np.int64),
            confidence=np.full(len(rows), 2),
        )

    def breakdown(
        self,
        spec: ModelSpec,
        configuration: Configuration,
        workload: Workload,
        *,
        catalogue: Catalogue,
        groups: ClusterSpec | None = None,
    ) -> "FakeBreakdown":
        terms = self.terms(spec, Configurations.of([configuration]), workload, catalogue)
        return FakeBreakdown(
            {name: float(column[0]) for name, column in terms.ttft_ms.items()},
            {name: float(column[0]) for name, column in terms.tpot_ms.items()},
        )

    @staticmethod
    def terms(
        spec: ModelSpec, rows: Configurations, workload: Workload, catalogue: Catalogue
    ) -> "FakeTerms":
        tokens = workload.input.mean + workload.output.mean
        typical = memory_map(spec, catalogue, rows, np.full(len(rows), tokens))
        gpus = [catalogue.gpu(name) for name in rows.gpus]
        flops = np.asarray([gpu.flops("fp16") for gpu in gpus])[rows.gpu]
        bandwidth = np.asarray([gpu.bandwidth_gbps for gpu in gpus])[rows.gpu] * 1e9
        link = np.asarray([max(gpu.link_gbps, 1.0) for gpu in gpus])[rows.gpu] * 1e9
        wb = np.asarray([WEIGHT_BYTES[weight_format(spec, q)] for q in QUANTIZATIONS])
        weights = spec.parameters * wb[rows.quantization]
        prefill = 2 * spec.active_parameters * workload.input.mean / flops / rows.tp / 0.5
        chunks = 0.002 * (workload.input.mean / rows.max_num_batched_tokens)
        width = np.minimum(rows.max_num_seqs, np.maximum(typical.slots, 1)).astype(np.float64)
        flight = workload.users if workload.users is not None else (workload.rate or 0.0) * 5.0
        batch = np.maximum(np.minimum(flight / rows.replicas, width), 1.0)
        kv = batch * tokens * spec.kv_bytes_per_token() / np.where(rows.kv_dtype == 1, 2, 1)
        comm = np.where(rows.tp > 1, 2 * spec.layers * (8e-6 + batch * spec.hidden * 4 / link), 0)
        shared = (prefill + chunks) * batch / workload.output.mean
        tpot = {
            "weights": weights / rows.tp / bandwidth / 0.7 * 1e3,
            "kv": kv / rows.tp / bandwidth / 0.7 * 1e3,
            "compute": shared * (1 + rows.max_num_batched_tokens / 65536) * 1e3,
            "comm": comm * 1e3,
            "overhead": np.full(len(rows), 4.0),
        }
        service = prefill + chunks + workload.output.mean * np.sum([*tpot.values()], axis=0) / 1e3
        capacity = rows.replicas * width / service
        offered = capacity if workload.rate is None else np.full(len(rows), workload.rate)
        rho = offered / capacity
        stable = np.minimum(rho, 0.999)
        queued = np.maximum(flight / rows.replicas - width, 0.0) / width * service
        queue = np.where(rho < 1.0, service * stable / (1 - stable) / width, np.inf)
        wait = queued if workload.users is not None else queue
        ttft = {
            "wait": wait * 1e3,
            "prefill_compute": prefill * 1e3,
            "memory": chunks * 1e3,
            "comm": np.zeros(len(rows)),
            "interference": np.zeros(len(rows)),
        }
        closed = workload.output.mean * rows.replicas * batch / service
        fixed = np.full(len(rows), (workload.rate or 0.0) * workload.output.mean)
        return FakeTerms(
            ttft_ms=ttft,
            tpot_ms=tpot,
            throughput=closed if workload.rate is None else fixed,
            utilization=offered / capacity,
            slots=typical.slots,
        )

    def _estimates(self, point: Floats) -> Estimates:
        return Estimates(point * np.exp(-self.spread), point, point * np.exp(self.spread))

    @staticmethod
    def _prices(rows: Configurations, catalogue: Catalogue, groups: ClusterSpec | None) -> Floats:
        own = {group.gpu: group.price_per_gpu_hour for group in groups.groups} if groups else {}
        prices = [own.get(name) or catalogue.gpu(name).price_per_hour or 0.0 for name in rows.gpus]
        return np.asarray(prices)[rows.gpu]
