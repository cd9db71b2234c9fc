"""What every HTTP surface shares: errors, permissions, stages, transactions.

Routers take `Db`, `public` and `require` from here; applications take the rest from its module.
"""

from foundry.infra.http.permissions import public as public
from foundry.infra.http.permissions import require as require
from foundry.infra.http.sessions import Db as Db
