"""Whether a training can be carried out and its result be served: asked before a job is queued."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from foundry.catalog.datasets.service import DatasetVersion
from foundry.catalog.registry.documents import read_document
from foundry.catalog.registry.domain import Kind, Manifest
from foundry.catalog.registry.service import ModelVersion
from foundry.engines.model_files import (
    CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
    WEIGHTS_INDEX,
)
from foundry.engines.training.config import Lora, SftConfig
from foundry.engines.training.decoder.config import DecoderConfig
from foundry.engines.training.decoder.layout import check_names
from foundry.engines.training.diloco.config import DilocoConfig
from foundry.engines.training.precision import CPU_FORMATS, find_common_formats
from foundry.errors import (
    Conflict,
    FoundryError,
    InvalidConfiguration,
    InvalidRequest,
    Unavailable,
)
from foundry.execution.jobs.placement import Bundle, Needs, measure_room
from foundry.execution.jobs.template_check import check_templates
from foundry.infra.objects import ObjectStore
from foundry.serving.endpoints.serving_rank import ServingRank
from foundry.serving.engine.hardware import Hardware, LiveHardware, ask_hardware

# Tokenizers list thousands of added tokens, and indices the tensors of thousands of experts. What
# is larger is left to the worker.
_MOST_LISTED_BYTES = 8 * 2**20
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Training:
    """What is asked for.

    Attributes:
        inner: the optimiser's part of `config`, which the request calls `where`.
        workers: without which the job cannot begin, and what each reserves.
    """

    config: SftConfig | DilocoConfig
    inner: SftConfig
    where: str
    workers: Needs

    @property
    def result_kind(self) -> Kind:
        """What it makes: an adapter, or a model whose weights were all trained."""
        return "adapter" if isinstance(self.inner.method, Lora) else "merged"


@dataclass(frozen=True, slots=True)
class TrainingCheck:
    """Asks models, data, engines and the cluster whether a training can work.

    Attributes:
        objects, hardware: None: what only they know is left to the workers.
        grows: nodes join when jobs wait, so nothing is too large for the cluster.
    """

    objects: ObjectStore | None = None
    hardware: LiveHardware | None = None
    grows: bool = False

    async def check(
        self,
        training: Training,
        base: ModelVersion,
        files: Manifest,
        data: DatasetVersion,
        served: ServingRank,
    ) -> None:
        """Refuse what could not end well.

        Args:
            served: the rank of adapters that the base is served with.
        Raises:
            InvalidRequest: the base cannot be trained, or not so; or its result not be served.
            InvalidConfiguration: the cluster cannot hold the workers.
        """
        _check_base(base, data, training)
        await self._check_files(base, files, data, training)
        _check_rank(training, base, served)
        await self._check_cluster(training)

    async def _check_files(
        self, base: ModelVersion, files: Manifest, data: DatasetVersion, training: Training
    ) -> None:
        """Check the base's own files; a store that does not answer refuses nothing."""
        if self.objects is None:
            return
        paths = {file.path for file in files.files}
        needed = (CONFIG, TOKENIZER, TOKENIZER_CONFIG)
        missing = [path for path in needed if path not in paths]
        if not paths.intersection((WEIGHTS, WEIGHTS_INDEX)):
            missing.append(WEIGHTS)
        if missing:
            hint = "import it again with those files"
            if TOKENIZER in missing and any(path.endswith(".model") for path in paths):
                hint = f"{hint}; AutoTokenizer of transformers writes {TOKENIZER} (save_pretrained)"
            raise InvalidRequest(
                f"{base.reference} cannot be trained without {', '.join(missing)}: {hint}",
                param="base",
            )
        with suppress(Unavailable):
            config = await read_document(self.objects, files, CONFIG)
            decoder = _check_architecture(base, config, training)
            index = await read_document(
                self.objects, files, WEIGHTS_INDEX, most_bytes=_MOST_LISTED_BYTES
            )
            _check_tensors(base, decoder, index)
            await check_templates(self.objects, base, files, data)

    async def _check_cluster(self, training: Training) -> None:
        hardware = await ask_hardware(self.hardware)
        if hardware is None or not hardware.nodes:
            return
        _check_precision(training, hardware)
        if training.inner.offload and hardware.on_cpu:
            raise Conflict(
                f"{training.where}.offload would be ignored: the cluster has no accelerator, so "
                "training is in the hosts' memory already; leave it out",
                param=f"{training.where}.offload",
            )
        if not self.grows:
            _check_room(training, hardware)


def check_nothing_ignored(training: Training, data: DatasetVersion) -> None:
    """Refuse fields that were set and decide nothing. Raises Conflict."""
    for ignored in training.config.find_ignored():
        path = ".".join(("config", *ignored.path))
        raise Conflict(f"{path} would be ignored: {ignored.reason}", param=path)
    if training.inner.eval_every is not None and not data.eval_rows:
        path = f"{training.where}.eval_every"
        raise Conflict(
            f"{path} is set, but {data.reference} holds no rows out: leave it out, or add the "
            "dataset with an eval_fraction above 0",
            param=path,
        )


def _check_base(base: ModelVersion, data: DatasetVersion, training: Training) -> None:
    if not data.train_rows:
        raise InvalidRequest(
            f"{data.reference} has no rows to train on: add one with a smaller eval_fraction",
            param="dataset",
        )
    if base.kind == "adapter":
        raise InvalidRequest(f"{base.reference} is an adapter: train from its base", param="base")
    context, length = base.context_length, training.inner.max_seq_len
    if context is not None and length > context:
        raise InvalidRequest(
            f"{training.where}.max_seq_len is {length}, but {base.reference} reads {context} "
            f"tokens at most: set it to {context} or less",
            param=f"{training.where}.max_seq_len",
        )


def _check_architecture(base: ModelVersion, config: object, training: Training) -> DecoderConfig:
    method = training.inner.method
    try:
        decoder = DecoderConfig.of(config)
        if isinstance(method, Lora):
            decoder.check_served_targets(method.targets)
    except FoundryError as error:
        raise type(error)(f"{base.reference} cannot be trained: {error.message}") from error
    if isinstance(training.config, DilocoConfig):
        fragments = training.config.outer.fragments
        most = decoder.most_fragments(method.targets if isinstance(method, Lora) else None)
        if fragments > most:
            raise InvalidRequest(
                f"config.outer.fragments is {fragments}, but what is trained of {base.reference} "
                f"divides into {most} at most: use fewer",
                param="config.outer.fragments",
            )
    return decoder


def _check_tensors(
    base: ModelVersion, decoder: DecoderConfig, index: dict[str, Any] | None
) -> None:
    """Check the names of the tensors where an index lists them; else the worker does."""
    names = index.get("weight_map") if index is not None else None
    if not isinstance(names, dict):
        return
    try:
        check_names(decoder, names)
    except FoundryError as error:
        raise type(error)(f"{base.reference} cannot be trained: {error.message}") from error


def _check_rank(training: Training, base: ModelVersion, served: ServingRank) -> None:
    method = training.inner.method
    if isinstance(method, Lora):
        param = f"{training.where}.method.rank"
        served.check_adapter(param, method.rank, base, param)


def _check_precision(training: Training, hardware: Hardware) -> None:
    """Refuse a number format that no device of the cluster computes well; auto takes what fits."""
    precision = training.inner.precision
    if precision == "auto" or hardware.unknown_accelerators:
        return
    if hardware.on_cpu:
        # bfloat16 is slow on an old processor and right; its extensions are its worker's to know.
        formats, devices = CPU_FORMATS, "a processor"
    else:
        found = find_common_formats(hardware.accelerators)
        if found is None:
            return
        formats, devices = found, ", ".join(sorted(hardware.accelerators))
    if precision not in formats:
        raise InvalidConfiguration(
            f"{training.where}.precision is {precision}, but {devices} has none: "
            f"use {' or '.join(formats)}",
            param=f"{training.where}.precision",
        )


def _check_room(training: Training, hardware: Hardware) -> None:
    """Check that an idle cluster holds the workers that the job needs."""
    nodes = [Bundle(node.cpus, node.gpus, node.memory_gb * _GB) for node in hardware.nodes]
    needs = training.workers
    room = measure_room(needs, nodes)
    if room.workers >= needs.workers:
        return
    workers = f"{needs.workers} workers" if needs.workers > 1 else "a worker"
    hint = "add nodes"
    if isinstance(training.config, DilocoConfig) and room.workers:
        hint = (
            f"set config.fleet.workers to {room.workers} or less, add nodes, or set "
            f"config.fleet.quorum to {room.workers} or less so that the others may come later"
        )
    raise InvalidConfiguration(
        f"the cluster has no room for {workers} with {room.each} each: it is {room.there} and "
        f"holds {room.workers} of them even when idle; {hint}",
        param="config.fleet.workers" if isinstance(training.config, DilocoConfig) else None,
    )
