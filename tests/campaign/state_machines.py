"""The property tests and state machines with many more examples than `make test` affords."""

import subprocess
import sys

from hypothesis import settings

PROFILE = "campaign"
settings.register_profile(PROFILE, max_examples=5000, deadline=None)


def main() -> int:
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=7200", "-p", __spec__.name]
    return subprocess.call([*command, f"--hypothesis-profile={PROFILE}", "-k", "machine"])


if __name__ == "__main__":
    raise SystemExit(main())
