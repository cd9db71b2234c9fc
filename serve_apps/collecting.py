"""The garbage collector's share of the supervisor."""

from functools import partial

from foundry.catalog.datasets.collecting import collect_deleted
from foundry.catalog.datasets.content import list_known_files
from foundry.catalog.registry.collecting import collect_blobs, list_known_blobs
from foundry.config import Settings
from foundry.execution.fleets.service import STORAGE, list_known_states
from foundry.execution.jobs.retention import list_known_objects
from foundry.execution.workers.job_collector import JobCollector
from foundry.infra.database import Database
from foundry.infra.wiring import cache_dir, open_objects
from foundry.supervisor.collecting import NodeCollector
from foundry.supervisor.loop import Chore
from foundry.supervisor.orphans import OrphanCollector
from foundry.supervisor.ray_calls import RayCalls
from foundry.supervisor.ray_nodes import RayNodes

_PERIOD_S = 300.0
# They are rare, and listing a million objects takes minutes.
_ORPHAN_PERIOD_S = 6 * 3600.0
_ORPHAN_DEADLINE_S = 3600.0


def collecting_chores(settings: Settings, database: Database, calls: RayCalls) -> list[Chore]:
    """Chores that remove what nobody needs any more."""
    objects, retention = open_objects(settings), settings.retention
    jobs = JobCollector(database, objects, retention.resumable_days * 86_400.0)
    nodes = RayNodes(calls, settings.home, cache_dir(settings), int(retention.cache_gb * 2**30))
    orphans = OrphanCollector(
        objects,
        {
            "blobs/": partial(list_known_blobs, database),
            "datasets/": partial(list_known_files, database),
            "checkpoints/": partial(list_known_objects, database),
            "logs/": partial(list_known_objects, database),
            STORAGE: partial(list_known_states, database),
        },
        judged=("blobs/", "datasets/"),
        read_owner=database.read_identity,
    )
    return [
        Chore("job leftovers", jobs.collect, _PERIOD_S),
        Chore("blobs", lambda: collect_blobs(database, objects), _PERIOD_S),
        Chore("deleted datasets", lambda: collect_deleted(database, objects), _PERIOD_S),
        Chore("node caches", NodeCollector(database, nodes).clean_nodes, _PERIOD_S),
        Chore("orphan objects", orphans.collect, _ORPHAN_PERIOD_S, _ORPHAN_DEADLINE_S),
    ]
