"""Every fault at rest and under light load, twice each: an hour on two cores.

`make campaign NAME=recovery`; `make test` has one situation a target, `make bench NAME=recovery`
each fault once.
"""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.recovery.matrix import run_matrix, running_site, say
from tests.recovery.probe import Site

_ROUNDS = 2
_CLIENTS = 2


@contextmanager
def light_load(site: Site) -> Iterator[None]:
    """A few clients that ask one question after the other."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.2):
            site.chats()

    threads = [threading.Thread(target=ask) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def main() -> int:
    failed: list[str] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running_site(Path(folder) / "numbers.jsonl") as (site, engine_start_s),
    ):
        for _ in range(_ROUNDS):
            failed += run_matrix(site, engine_start_s, ("kill", "stop"))[1]
            with light_load(site):
                failed += run_matrix(site, engine_start_s, ("kill", "stop"))[1]
    for line in failed:
        say(f"not recovered: {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
