"""Steps of `foundry up` that run as processes of their own, and what they report."""

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from foundry.config import child_environment
from foundry.errors import SetupError, Unavailable
from foundry.infra.embedded.step_logs import read_last_line

_PROGRESS = "progress:"


def run_step(
    module: str,
    *,
    log: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    progress: Callable[[str], None],
    arguments: Sequence[str] = (),
) -> list[str]:
    """Run `python -m module arguments…`; its `progress: …` lines go to the callback.

    Returns:
        The other lines of its standard output. Standard error goes to `log`.

    Raises:
        SetupError: it exited with 2, its way to say that the settings are wrong.
        Unavailable: it failed otherwise, or took longer than `timeout_s`.
    """
    lines: list[str] = []
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=child_environment(**environment),
            start_new_session=True,
        ) as child,
    ):
        watchdog = threading.Timer(timeout_s, child.kill)
        watchdog.start()
        try:
            for line in child.stdout or ():
                text = line.strip()
                if text.startswith(_PROGRESS):
                    progress(text.removeprefix(_PROGRESS).strip())
                elif text:
                    lines.append(text)
            code = child.wait()
        finally:
            expired = not watchdog.is_alive()
            watchdog.cancel()
            if child.poll() is None:
                child.terminate()
    if code == 0:
        return lines
    if expired:
        raise Unavailable(f"`{module}` did not finish in {timeout_s:.0f} s (log: {log})")
    kind = SetupError if code == 2 else Unavailable
    raise kind(f"`{module}` failed: {read_last_line(log)} (log: {log})")
