"""Configurations as operating points, and the load that each replica carries."""

import numpy as np

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.calibration import PRESENT_MONTH
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configurations, Floats
from foundry.engines.budsim.memory import kv_element_bytes, nominal, weight_bytes
from foundry.engines.budsim.points import ENGINES, Points, model_columns
from foundry.engines.budsim.request import QUANTIZATIONS, RUNTIMES, Workload


def points_of(
    spec: ModelSpec, configurations: Configurations, workload: Workload, catalogue: Catalogue
) -> Points:
    """One point per configuration; `batch` is 1 and for the caller to set."""
    count = len(configurations)
    gpus = [catalogue.gpu(name) for name in configurations.gpus]

    def of_gpu(values: list[float]) -> Floats:
        return np.asarray(values, dtype=np.float64)[configurations.gpu]

    formats = [spec.weight_format if name == "none" else name for name in QUANTIZATIONS]
    compute = np.asarray([[gpu.arithmetic(name) for name in formats] for gpu in gpus])
    chosen = compute[configurations.gpu, configurations.quantization]
    engines = np.asarray([ENGINES.index(name) for name in RUNTIMES], dtype=np.float64)
    cached = workload.input.mean * workload.prefix_share
    return Points(
        **model_columns(spec, count),
        memory=of_gpu([gpu.memory_gb * 1e9 for gpu in gpus]),
        bandwidth=of_gpu([gpu.bandwidth_gbps * 1e9 * gpu.attained_bandwidth for gpu in gpus]),
        flops=chosen[:, 0] * of_gpu([gpu.attained_flops for gpu in gpus]),
        flops16=of_gpu([gpu.flops("fp16") * gpu.attained_flops for gpu in gpus]),
        link=of_gpu([gpu.link_gbps * 1e9 for gpu in gpus]),
        nvlink=of_gpu([float(gpu.link == "nvlink") for gpu in gpus]),
        native=chosen[:, 1],
        tp=configurations.tp.astype(np.float64),
        pp=configurations.pp.astype(np.float64),
        dp=np.ones(count),
        ep=np.ones(count),
        wb=nominal(weight_bytes(spec, configurations)),
        kb=kv_element_bytes(configurations),
        batch=np.ones(count),
        input=np.full(count, max(workload.input.mean, 1.0)),
        cached=np.full(count, cached),
        output=np.full(count, max(workload.output.mean, 1.0)),
        chunk=configurations.max_num_batched_tokens.astype(np.float64),
        engine=engines[configurations.runtime],
        month=np.full(count, PRESENT_MONTH),
    )
