"""The garbage collector's share of the supervisor."""

from foundry.catalog.registry.collecting import collect_blobs
from foundry.config import Settings
from foundry.execution.workers.job_collector import JobCollector
from foundry.infra.database import Database
from foundry.infra.wiring import cache_dir, open_objects
from foundry.supervisor.collecting import NodeCollector
from foundry.supervisor.loop import Chore
from foundry.supervisor.ray_calls import RayCalls
from foundry.supervisor.ray_nodes import RayNodes

_PERIOD_S = 300.0
_DEADLINE_S = 1800.0


def collecting_chores(settings: Settings, database: Database, calls: RayCalls) -> list[Chore]:
    """Chores that remove what nobody needs any more."""
    objects, retention = open_objects(settings), settings.retention
    jobs = JobCollector(database, objects, retention.resumable_days * 86_400.0)
    nodes = RayNodes(calls, settings.home, cache_dir(settings), int(retention.cache_gb * 2**30))
    return [
        Chore("job leftovers", jobs.collect, _PERIOD_S, _DEADLINE_S),
        Chore("blobs", lambda: collect_blobs(database, objects), _PERIOD_S, _DEADLINE_S),
        Chore("node caches", NodeCollector(database, nodes).clean_nodes, _PERIOD_S, _DEADLINE_S),
    ]
