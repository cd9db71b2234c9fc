"""Every fault in every situation: at rest, under load, in training, deploy, publish and cancel.

`make campaign NAME=recovery`, about two hours on two cores. `make test` has one situation a target,
`make bench NAME=recovery` each fault once.
"""

import tempfile
from pathlib import Path

from tests.recovery.matrix import list_cases, run_matrix, running_site, say
from tests.recovery.situations import SITUATIONS


def main() -> int:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_site(Path(folder)) as (site, starts),
    ):
        done, failed = run_matrix(site, starts, list_cases(SITUATIONS))
    unclean = [str(each) for each in done if not each.is_clean]
    for line in (*failed, *unclean):
        say(f"not recovered: {line}")
    return 1 if failed or unclean else 0


if __name__ == "__main__":
    raise SystemExit(main())
