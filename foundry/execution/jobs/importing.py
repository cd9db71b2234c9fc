"""What an import is asked about before it is queued: whether it can end well, and on what base.

bundled ─────────────────────────────────────────────────> nothing to ask
directory ──> survey: names, documents, headers ──┐
hf: ──> listing of the mirror, its configuration ─┴──> kind ──adapter──> base, rank
"""

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from foundry.catalog.registry.adapters import (
    find_adapter_config_faults,
    find_base_faults,
    read_rank,
)
from foundry.catalog.registry.artifacts import (
    Survey,
    choose_files,
    detect_kind,
    find_architecture_faults,
    find_missing_files,
    survey_files,
)
from foundry.catalog.registry.documents import read_document
from foundry.catalog.registry.domain import Kind, derive_model_name
from foundry.catalog.registry.files import is_importable, select_files
from foundry.catalog.registry.safetensors import Tensor
from foundry.catalog.registry.service import ModelVersion, Registry
from foundry.engines.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG
from foundry.errors import (
    Conflict,
    InvalidArtifact,
    InvalidRequest,
    ModelNotFound,
    Unavailable,
)
from foundry.execution.jobs.sources import DirectorySource, HubSource, Source, parse_source
from foundry.infra.hub_mirror import MIRROR_SETTING, HubListing, HubMirror
from foundry.infra.objects import ObjectStore
from foundry.serving.endpoints.serving_rank import ServingRanks

# Of a directory on a disk that hangs nothing is known here; the worker looks again.
_LOOK_S = 20.0
# Its threads stay there; of its own, so that nothing else waits for them.
_DISKS = ThreadPoolExecutor(2, thread_name_prefix="import-look")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImportRules:
    """What this server's settings say of imports.

    Attributes:
        mirror: of the hub; None: none is set.
        objects: where the configurations of bases lie; None: no adapter is compared with its base.
    """

    mirror: HubMirror | None = None
    objects: ObjectStore | None = None


@dataclass(frozen=True, slots=True)
class PreparedImport:
    """An import that may be queued.

    Attributes:
        identity: what makes two imports the same; None: the whole spec.
    """

    kind: Kind
    spec: dict[str, object]
    identity: dict[str, object] | None = None


@dataclass(frozen=True, slots=True)
class SourceLook:
    """What was seen of a source.

    Attributes:
        source: with the commit that a branch means now, where it is of the hub.
        config: the adapter's or the model's configuration.
        tensors: of an adapter; empty: they were not read.
        state: changes when the files do.
    """

    source: Source
    kind: Kind = "base"
    config: Mapping[str, object] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    state: object = None


async def look_at_source(mirror: HubMirror | None, text: str, base: str | None) -> SourceLook:
    """See whether a source can become a version; before a transaction: disks and mirrors are slow.

    Args:
        base: what an adapter was trained from, if somebody says it.

    Raises:
        InvalidArtifact: the files cannot become a version; every reason is named.
        InvalidRequest: the source is none.
        Conflict: a base is named for what is no adapter.
        NotFound, Unavailable: the mirror does not show the repository, or does not answer.
    """
    source, wants_adapter = parse_source(text), base is not None
    if isinstance(source, DirectorySource):
        look = await _look_at_directory(source, wants_adapter=wants_adapter)
    elif isinstance(source, HubSource):
        look = await _look_at_mirror(mirror, source, wants_adapter=wants_adapter)
    else:
        look = SourceLook(source)
    if wants_adapter and look.kind != "adapter":
        raise Conflict(
            f"{text} is a whole model, so a base would be ignored: only adapters have one",
            param="base",
        )
    return look


async def _look_at_directory(source: DirectorySource, *, wants_adapter: bool) -> SourceLook:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_LOOK_S):
            look = await loop.run_in_executor(_DISKS, _read_directory, source, wants_adapter)
    except TimeoutError:
        log.warning("%s was not read in %s s: the worker checks it", source.directory, _LOOK_S)
        return SourceLook(source, "adapter" if wants_adapter else "base")
    return look


async def _look_at_mirror(
    mirror: HubMirror | None, source: HubSource, *, wants_adapter: bool
) -> SourceLook:
    if mirror is None:
        raise InvalidRequest(
            "this server has no mirror of the hub, which hf: needs: set "
            f"{MIRROR_SETTING}=https://… and restart it with `foundry up`; or download the "
            "model and import its directory",
            param="source",
        )
    listing = await mirror.list_files(source.repository, source.revision)
    names = {path for path in listing.files if is_importable(path)}
    kind = _choose_kind(names, wants_adapter)
    problems = find_missing_files(choose_files(names, None, kind), kind)
    document, faults = await _read_config(mirror, listing, kind)
    if problems := [*problems, *faults]:
        raise InvalidArtifact(
            f"{source.text} cannot be imported: {'; '.join(problems)}", problems=problems
        )
    return SourceLook(HubSource(source.repository, listing.commit), kind, document)


class ImportCheck:
    """Asks on behalf of one principal.

    Args:
        ranks: of adapters that bases are served with.
    """

    def __init__(
        self,
        registry: Registry,
        rules: ImportRules,
        ranks: ServingRanks,
    ) -> None:
        self._registry = registry
        self._rules = rules
        self._ranks = ranks

    async def prepare(self, name: str, look: SourceLook, base: str | None) -> PreparedImport:
        """Find the base of an adapter, and whether what was seen may become a version of a model.

        Raises:
            InvalidRequest: the adapter's base is not clear, or its rank would not be served.
            InvalidArtifact: the adapter does not fit its base.
            Conflict: the model holds another kind.
            ModelNotFound: the base does not exist.
        """
        await self._registry.check_kind(name, look.kind)
        spec: dict[str, object] = {"model": name, "source": look.source.text}
        identity = None if look.state is None else {**spec, "state": look.state}
        if look.kind == "adapter":
            version = await self._find_base(base, look.config)
            served = await self._ranks.read_rank(version)
            rank = read_rank(look.config)
            served.check_adapter("the rank of the adapter", rank, version, "source")
            await self._check_fit(look.tensors, version)
            found = {"kind": "adapter", "base": version.reference}
            spec |= {**found, "base_version_id": str(version.id)}
            identity = {**(identity or spec), "base": version.digest}
        return PreparedImport(look.kind, spec, identity)

    async def _find_base(self, base: str | None, config: Mapping[str, object]) -> ModelVersion:
        if base is not None:
            version = await self._registry.resolve(base)
            if version.kind == "adapter":
                raise InvalidRequest(f"{version.reference} is an adapter, not a base", param="base")
            return version
        trained_from = config.get("base_model_name_or_path")
        found = await self._guess_bases(trained_from) if isinstance(trained_from, str) else []
        if len(found) == 1:
            return found[0]
        raise InvalidRequest(
            f"{_describe_guesses(trained_from, found)}: say which version it was trained from with "
            "`--base NAME`; `foundry models list` shows what there is",
            param="base",
        )

    async def _guess_bases(self, trained_from: str) -> list[ModelVersion]:
        """Versions whose model is called like what an adapter says that it was trained from."""
        parts = [part for part in trained_from.split("/") if part]
        names = {derive_model_name(trained_from), derive_model_name("-".join(parts[-2:]))}
        found = []
        for name in sorted(filter(None, names)):
            try:
                version = await self._registry.resolve(name)
            except ModelNotFound:
                continue
            if version.kind != "adapter":
                found.append(version)
        return found

    async def _check_fit(self, tensors: Mapping[str, Tensor], base: ModelVersion) -> None:
        """Compare shapes with the base's. A store that does not answer refuses nothing."""
        if self._rules.objects is None or not tensors:
            return
        manifest = await self._registry.manifest(base.id)
        try:
            config = await read_document(self._rules.objects, manifest, CONFIG)
        except Unavailable:
            return
        if config is not None and (faults := find_base_faults(tensors, config)):
            raise InvalidArtifact(
                f"the adapter does not fit {base.reference}: {faults[0]}; name the base that it "
                "was trained from with `--base NAME`",
                param="base",
            )


def _read_directory(source: DirectorySource, wants_adapter: bool) -> SourceLook:
    directory = source.directory
    if not os.path.lexists(directory):
        raise InvalidRequest(
            f"there is no directory {directory} on the server: an import reads the server's own "
            "disks, so copy the model there first",
            param="source",
        )
    selection = select_files(directory)
    names = selection.files.keys() | selection.problems.keys()
    found = survey_files(selection, _choose_kind(names, wants_adapter))
    found.check(f"{directory} cannot be imported")
    tensors = found.headers[ADAPTER_WEIGHTS] if found.kind == "adapter" else {}
    return SourceLook(source, found.kind, found.config, tensors, _describe_state(found))


def _choose_kind(names: Iterable[str], wants_adapter: bool) -> Kind:
    """Who names a base means the adapter, where a merged model lies beside it."""
    there = set(names)
    if wants_adapter and (ADAPTER_CONFIG in there or CONFIG not in there):
        return "adapter"
    return detect_kind(there)


def _describe_state(found: Survey) -> object:
    """Another one when a file was replaced: then an import is not the same again."""
    described = []
    for path, local in sorted(found.files.items()):
        stat = local.stat()
        described.append([path, stat.st_size, stat.st_mtime_ns])
    return described


async def _read_config(
    mirror: HubMirror, listing: HubListing, kind: Kind
) -> tuple[Mapping[str, object], list[str]]:
    """The configuration, and what is wrong with it."""
    path = ADAPTER_CONFIG if kind == "adapter" else CONFIG
    if path not in listing.files:
        return {}, []
    document = await mirror.read_document(listing, path)
    if not isinstance(document, dict):
        return {}, [f"{path} is not a JSON object"]
    if kind == "adapter":
        return document, find_adapter_config_faults(document)
    return document, list(find_architecture_faults(document))


def _describe_guesses(trained_from: object, found: Sequence[ModelVersion]) -> str:
    if not isinstance(trained_from, str) or not trained_from:
        return "the adapter names no base"
    named = f"the adapter was trained from {trained_from[:200]!r}"
    if not found:
        return f"{named}, and no model here is called so"
    return f"{named}, which may be {' or '.join(version.reference for version in found)}"
