"""Searches for configurations as Ray tasks: one per island, and one that merges their fronts.

Pure functions of the question: a task that dies is run again. None holds an accelerator.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError

from foundry.config import load_settings
from foundry.errors import EngineFailed, FoundryError
from foundry.execution.workers.ray_threads import call_ray
from foundry.infra.wiring import open_objects
from foundry.serving.recommendations import numerics, trained
from foundry.serving.recommendations.domain import Question

# A cluster without the extra `budsim` starts as well, and says so when it is asked.
if TYPE_CHECKING:
    from foundry.engines.budsim.search.archive import Archive
    from foundry.engines.budsim.search.genome import Island


def archive(question: Question, island: Island) -> Archive:
    """What one kind of GPU under one runtime can do."""
    from foundry.engines.budsim.search.recommend import search_island

    _load_model(question)
    spec, facts = numerics.spec_of(question), numerics.facts_of(question)
    return search_island(spec, question.request, island, **facts)


def answer(question: Question, *archives: Archive) -> dict[str, object]:
    """The recommendation of all islands together, as plain JSON values."""
    from foundry.engines.budsim.search.recommend import merge

    _load_model(question)
    spec, facts = numerics.spec_of(question), numerics.facts_of(question)
    found = merge(spec, question.request, archives, **facts)
    return numerics.explain_recommendation(question, spec, found, facts)


def _load_model(question: Question) -> None:
    """The predictor of the question, once per worker process: by digest from the object store."""
    if question.learnt is not None and question.learnt.model is not None:
        asyncio.run(trained.ensure_model(open_objects(load_settings()), question.learnt))


class RaySearcher:
    """Implements the control plane's `Searcher` on the cluster that this process is part of."""

    async def recommend(self, question: Question) -> dict[str, object]:
        numerics.require_libraries()
        from foundry.engines.budsim.search.genome import islands

        options: dict[str, Any] = {"num_cpus": 1, "max_retries": 2}
        search = ray.remote(**options)(archive)

        def submit() -> tuple[list[Any], Any]:
            parts = [search.remote(question, island) for island in islands(question.request)]
            return parts, ray.remote(**options)(answer).remote(question, *parts)

        # A task that is new to the cluster is told to its control service first, which may be away.
        parts, merged = await call_ray(submit)
        try:
            found: dict[str, object] = await merged
        except RayTaskError as error:
            if isinstance(error.cause, FoundryError):
                raise error.cause from error
            raise
        except RayError as error:
            raise EngineFailed(
                "the search died on the cluster: ask again; see `foundry logs`"
            ) from error
        except asyncio.CancelledError:
            for reference in (*parts, merged):
                ray.cancel(reference)
            raise
        return found
