"""What every HTTP surface shares: errors, permissions, stages, transactions.

Routers take `Db`, `allow_anyone` and `require_permission` from here; applications take the rest
from its module.
"""

from foundry.infra.http.permissions import allow_anyone as allow_anyone
from foundry.infra.http.permissions import require_permission as require_permission
from foundry.infra.http.sessions import Db as Db
