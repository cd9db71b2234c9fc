"""Who answers `foundry budsim`: the server, or this process with a model's configuration."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from foundry.cli import session
from foundry.cli.console import activity
from foundry.errors import FoundryError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from foundry.cli.budsim_inputs import Asked

Fields = dict[str, Any]
_WAIT_S = 10


def recommend(asked: Asked, question: Mapping[str, object]) -> Fields:
    """The recommendation's `result`, with its `id` where a server keeps it.

    Raises:
        FoundryError: the search failed; carries the server's message.
    """
    if asked.local:
        return _recommended_here({**asked.fields, **question})
    with session.client() as client, activity("searching") as say:
        row = client.budsim.recommend(asked.fields["model"], **_keywords(question), wait=_WAIT_S)
        if row.state not in ("DONE", "FAILED"):
            row = client.budsim.wait(row.id, lambda seen: say(f"search {seen.state.lower()}"))
    return _result(row.model_dump(mode="json"))


def recommendation(identifier: str) -> Fields:
    """A stored one."""
    with session.client() as client:
        row = client.budsim.wait(identifier)
    return _result(row.model_dump(mode="json"))


def predict(asked: Asked, fields: Mapping[str, object]) -> Fields:
    """A `PredictionList`."""
    if not asked.local:
        with session.client() as client:
            listed = client.budsim.predict(asked.fields["model"], **_keywords(fields))
        return listed.model_dump(mode="json")
    import orjson

    from foundry.sdk.errors import checked
    from foundry.serving.recommendations import numerics
    from foundry.serving.recommendations.schemas import PredictIn

    body = checked(PredictIn, {**asked.fields, **fields})
    found: Fields = orjson.loads(numerics.predict_json(*_model(asked), {}, body))
    return found


def validate(asked: Asked, fields: Mapping[str, object]) -> Fields:
    """Raises InvalidConfiguration."""
    if not asked.local:
        with session.client() as client:
            answer = client.budsim.validate(asked.fields["model"], **_keywords(fields))
        return answer.model_dump(mode="json")
    from foundry.sdk.errors import checked
    from foundry.serving.recommendations import numerics
    from foundry.serving.recommendations.schemas import ValidateIn

    body = checked(ValidateIn, {**asked.fields, **fields})
    return numerics.validate_deployment(*_model(asked), {}, body)


def simulate(asked: Asked, fields: Mapping[str, object]) -> Fields:
    if not asked.local:
        with session.client() as client, activity("simulating"):
            answer = client.budsim.simulate(asked.fields["model"], **_keywords(fields))
        return answer.data
    from foundry.sdk.errors import checked
    from foundry.serving.recommendations import numerics
    from foundry.serving.recommendations.schemas import SimulateIn

    body = checked(SimulateIn, {**asked.fields, **fields})
    with _working("simulating"):
        return numerics.simulate_deployment(*_model(asked), {}, body)


def catalogue(local: bool) -> Fields:
    if not local:
        with session.client() as client:
            return client.budsim.catalogue().model_dump(mode="json")
    from foundry.serving.recommendations import numerics

    return {**numerics.list_catalogue({}), "price_version": 0}


def _recommended_here(fields: Mapping[str, object]) -> Fields:
    from foundry.sdk.errors import checked
    from foundry.serving.recommendations import numerics
    from foundry.serving.recommendations.schemas import RecommendationCreate

    body = checked(RecommendationCreate, fields)
    if body.cluster is None or body.config is None:
        raise InvalidRequest("which GPUs? Give --cluster FILE or --gpu ID:COUNT")
    with _working("searching"):
        return numerics.recommend_offline(
            body.config, body.checkpoint_bytes, body.demand(body.cluster)
        )


def _result(row: Fields) -> Fields:
    if row["result"] is None:
        error = row["error"] or {}
        from foundry.sdk.errors import by_code

        kind: Callable[[str], FoundryError] = by_code(error.get("code"))
        raise kind(str(error.get("message", "the search has not ended")))
    return {"id": row["id"], **row["result"]}


def _model(asked: Asked) -> tuple[Fields, int | None]:
    return asked.fields["config"], asked.fields.get("checkpoint_bytes")


def _keywords(fields: Mapping[str, object]) -> Fields:
    return {name: value for name, value in fields.items() if value is not None}


@contextmanager
def _working(text: str) -> Iterator[None]:
    with activity(text):
        yield
