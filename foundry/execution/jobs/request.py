"""A job as it is asked for, before there is a row of it."""

import hashlib
import json
from dataclasses import dataclass, field

from foundry.execution.jobs.domain import JobKind
from foundry.execution.jobs.placement import Needs


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job that its owner asks for, with every reference pinned to a version.

    Attributes:
        identity: what makes two requests the same; None: the whole spec.
        force: run it although the same job was there before.
        submission_id: of a Ray job that is the first attempt's driver already.
        priority: higher ones are admitted first, older ones first among equals.
        needs: what its workers reserve; default: one CPU.
    """

    kind: JobKind
    name: str
    spec: dict[str, object]
    identity: dict[str, object] | None = None
    force: bool = False
    submission_id: str | None = None
    priority: int = 0
    needs: Needs = field(default_factory=Needs)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what makes two requests the same, lower-case hex."""
        identity = self.spec if self.identity is None else self.identity
        document = json.dumps(
            [self.kind, self.name, identity], sort_keys=True, separators=(",", ":")
        )
        return hashlib.sha256(document.encode()).hexdigest()
