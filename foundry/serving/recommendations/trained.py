"""Registered predictors: in the object store by digest, and loaded at most once per process."""

import asyncio
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from foundry.errors import Conflict, InvalidArtifact, Unavailable
from foundry.infra.objects import ObjectStore
from foundry.serving.recommendations.learning import Learnt, TrainedModel

if TYPE_CHECKING:
    from foundry.engines.budsim.predictor import Predictor

# Models that one process keeps: the active one, and those of answers that are still searched.
_KEPT = 4
_loaded: "OrderedDict[str, Predictor]" = OrderedDict()
_lock = threading.Lock()


async def keep_model(objects: ObjectStore, packed: bytes) -> str:
    """Store a packed predictor; its digest.

    Raises:
        InvalidArtifact: the bytes are no predictor that this Foundry reads.
    """
    from foundry.engines.budsim import packing

    await asyncio.to_thread(packing.unpack, packed)
    found = packing.digest(packed)
    if not await objects.exists(object_key(found)):
        try:
            await objects.put_bytes(object_key(found), packed)
        except Conflict:
            # Another request has stored the same bytes meanwhile.
            return found
    return found


async def ensure_model(objects: ObjectStore, learnt: Learnt | None) -> None:
    """Load the model that predicts, unless this process has it or it is the shipped one.

    Raises:
        NotFound: the object store has lost it.
        InvalidArtifact: its bytes have changed.
    """
    model = learnt.model if learnt is not None else None
    if model is None or model.digest in _loaded:
        return
    packed = await objects.get_bytes(object_key(model.digest))
    found = await asyncio.to_thread(_read, packed, model)
    with _lock:
        _loaded[model.digest] = found
        while len(_loaded) > _KEPT:
            _loaded.popitem(last=False)


def load_model(model: TrainedModel) -> "Predictor":
    """The predictor that `ensure_model` has fetched.

    Raises:
        Unavailable: it was not awaited, or too many models were since.
    """
    with _lock:
        found = _loaded.get(model.digest)
        if found is None:
            raise Unavailable(f"the predictor {model.name} is not loaded: ask again")
        _loaded.move_to_end(model.digest)
        return found


def object_key(digest: str) -> str:
    return f"budsim/models/{digest}"


def _read(packed: bytes, model: TrainedModel) -> "Predictor":
    from foundry.engines.budsim import packing
    from foundry.engines.budsim.predictor import Predictor

    if packing.digest(packed) != model.digest:
        raise InvalidArtifact(
            f"the stored predictor {model.name} is damaged: `foundry budsim promote 0` goes back "
            "to the shipped one"
        )
    return Predictor(packing.unpack(packed).renamed(model.name))
