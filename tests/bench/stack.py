"""A stack of its own for one benchmark: fresh home, free ports, nothing left behind."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foundry.config import Settings, load_settings
from foundry.infra.embedded import stack
from foundry.infra.embedded.ports import find_free_ports


@contextmanager
def fresh_home() -> Iterator[Settings]:
    """Settings of a stack that is not up yet; whatever runs there at the end is stopped."""
    settings, home = load_settings(), Path(tempfile.mkdtemp(prefix="fdry-bench-"))
    http, ray, dashboard = (
        port for port, _ in zip(find_free_ports(str(home)), range(3), strict=False)
    )
    try:
        yield settings.model_copy(
            update={
                "home": home,
                "http": settings.http.model_copy(update={"port": http}),
                "ray": settings.ray.model_copy(update={"port": ray, "dashboard_port": dashboard}),
            }
        )
    finally:
        stack.down(home, lambda text: None)
        shutil.rmtree(home, ignore_errors=True)
