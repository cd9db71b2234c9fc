"""Who answers: the server, or this process with a model's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foundry.cli import session
from foundry.cli.output.console import Detached, print_note, show_activity
from foundry.errors import InvalidRequest

if TYPE_CHECKING:
    from foundry.cli.budsim.inputs import Asked
    from foundry.sdk import Foundry
    from foundry.serving.recommendations.schemas import RecommendationOut

Fields = dict[str, Any]
# Most searches end within this; a longer one is shown under its id.
_WAIT_S = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """A recommendation, and what it answers.

    Attributes:
        result: as the wire writes it, with its `id` where a server keeps it.
        question: workload, targets, policy and method.
        model: reference in the registry; None: a configuration from a file.
        what_if: of accelerators that the asker named.
    """

    result: Fields
    question: Mapping[str, Any]
    model: str | None
    what_if: bool = False

    @property
    def met(self) -> bool:
        """Something fits, carries the load and meets every target."""
        return bool(self.result["feasible"])

    @property
    def objective(self) -> str:
        """What orders the answers."""
        objectives = (self.question.get("policy") or {}).get("objectives") or ("cost",)
        return str(objectives[0])


def recommend(asked: Asked, question: Mapping[str, Any]) -> Answer:
    """Search for the cheapest configuration, here or on the server.

    Raises FoundryError: the search failed; carries the server's message.
    """
    what_if = question["cluster"] is not None
    if asked.local:
        result = _recommend_here({**asked.fields, **question})
        return Answer(result, question, None, what_if)
    with session.client() as client:
        with show_activity("searching"):
            row = client.budsim.recommend(
                asked.fields["model"], **_drop_unset(question), wait=_WAIT_S
            )
        row = _wait_for_search(client, row)
    return Answer(_read_result(row), question, row.model, what_if)


def read_stored(text: str) -> Answer:
    """A stored recommendation, once its answer is there.

    Args:
        text: its id, a beginning of it, or `last`.
    """
    with session.client() as client:
        row = _wait_for_search(client, client.budsim.recommendation(text))
    return Answer(_read_result(row), row.request, row.model)


def predict(asked: Asked, fields: Mapping[str, object]) -> Fields:
    """A `PredictionList`."""
    if not asked.local:
        with session.client() as client:
            listed = client.budsim.predict(asked.fields["model"], **_drop_unset(fields))
        return listed.model_dump(mode="json")
    import orjson

    from foundry.sdk.errors import checked
    from foundry.serving.recommendations import numerics
    from foundry.serving.recommendations.schemas import PredictIn

    body = checked(PredictIn, {**asked.fields, **fields})
    found: Fields = orjson.loads(numerics.predict_json(*_split_model(asked), {}, body))
    return found


def validate(asked: Asked, fields: Mapping[str, object]) -> Fields:
    """A `ValidationOut`. Raises InvalidConfiguration: rules are broken; its details list them."""
    if not asked.local:
        with session.client() as client:
            answer = client.budsim.validate(asked.fields["model"], **_drop_unset(fields))
        return answer.model_dump(mode="json")
    from foundry.sdk.errors import checked
    from foundry.serving.recommendations import numerics
    from foundry.serving.recommendations.schemas import ValidateIn

    if fields["cluster"] is None:
        raise InvalidRequest("which GPUs? Give --cluster FILE or --gpu ID:COUNT")
    body = checked(ValidateIn, {**asked.fields, **fields})
    return numerics.validate_deployment(*_split_model(asked), {}, body)


def simulate(asked: Asked, fields: Mapping[str, object]) -> Fields:
    """A `SimulationOut`'s data."""
    if not asked.local:
        with session.client() as client, show_activity("simulating"):
            answer = client.budsim.simulate(asked.fields["model"], **_drop_unset(fields))
        return answer.data
    from foundry.sdk.errors import checked
    from foundry.serving.recommendations import simulating
    from foundry.serving.recommendations.schemas import SimulateIn

    body = checked(SimulateIn, {**asked.fields, **fields})
    with show_activity("simulating"):
        return simulating.simulate_deployment(*_split_model(asked), {}, body)


def list_hardware(local: bool) -> Fields:
    """A `CatalogueOut`."""
    if not local:
        with session.client() as client:
            return client.budsim.catalogue().model_dump(mode="json")
    from foundry.serving.recommendations import numerics

    return {**numerics.list_catalogue({}), "price_version": 0}


def _recommend_here(fields: Mapping[str, object]) -> Fields:
    from foundry.sdk.errors import checked
    from foundry.serving.recommendations import numerics
    from foundry.serving.recommendations.schemas import RecommendationCreate

    body = checked(RecommendationCreate, fields)
    if body.cluster is None or body.config is None:
        raise InvalidRequest("which GPUs? Give --cluster FILE or --gpu ID:COUNT")
    with show_activity("searching"):
        return numerics.recommend_offline(
            body.config, body.checkpoint_bytes, body.demand(body.cluster)
        )


def _wait_for_search(client: Foundry, row: RecommendationOut) -> RecommendationOut:
    """The row once its search has ended. Raises Detached: the user has interrupted."""
    from foundry.serving.recommendations.schemas import ENDED

    if row.state in ENDED:
        return row
    try:
        with show_activity(f"searching {row.id}") as say:
            say(f"searching {row.id}, {row.state.lower()}")
            return client.budsim.wait(
                row.id, lambda seen: say(f"searching {seen.id}, {seen.state.lower()}")
            )
    except KeyboardInterrupt:
        print_note(f"\ndetached; the search goes on\n  its answer  foundry budsim explain {row.id}")
        raise Detached from None


def _read_result(row: RecommendationOut) -> Fields:
    if row.result is None:
        from foundry.sdk.errors import by_code

        error = row.error or {}
        raise by_code(error.get("code"))(str(error.get("message", "the search gave no answer")))
    return {"id": str(row.id), **row.result}


def _split_model(asked: Asked) -> tuple[Fields, int | None]:
    return asked.fields["config"], asked.fields.get("checkpoint_bytes")


def _drop_unset(fields: Mapping[str, object]) -> Fields:
    return {name: value for name, value in fields.items() if value is not None}
