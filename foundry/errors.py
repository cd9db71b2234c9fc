"""The one error tree. Errors cross processes (Ray, HTTP, SDK), so each has a stable code.

FoundryError                internal_error
├── InvalidRequest          invalid_value             the caller can fix it
│   ├── InvalidDataset      invalid_dataset           names the line and the field
│   ├── InvalidArtifact     invalid_artifact          a weights file is not what it claims
│   ├── TrainingDiverged    training_diverged         loss or gradient is no finite number
│   ├── InvalidConfiguration  invalid_configuration   each violation: JSON path and reason
│   ├── ContextLengthExceeded  context_length_exceeded
│   ├── BodyTooLarge        body_too_large
│   ├── BodyTooSlow         body_too_slow             an upload that does not arrive in time
│   └── UnsupportedFeature  unsupported
├── Unauthenticated         invalid_api_key           one body for every cause
├── PermissionDenied        permission_denied
├── NotFound                not_found
│   └── ModelNotFound       model_not_found
├── Conflict                conflict
│   ├── VersionExists       version_exists
│   ├── AliasMoved          alias_moved
│   ├── AliasInUse          alias_in_use              an alias points at what is to be deleted
│   ├── VersionInUse        version_in_use            something else needs what is to be deleted
│   ├── LeaseLost           lease_lost                another holder has taken the work over
│   └── AlreadyRunning      already_running
├── Unavailable             unavailable               try again later; a dependency is down
│   ├── DatabaseUnavailable database_unavailable      nothing was changed
│   │   └── CommitUnknown   commit_unknown            it went away during a commit
│   ├── Overloaded          overloaded
│   ├── NoHealthyUpstream   no_healthy_upstream
│   └── DeadlineExceeded    deadline_exceeded
├── ResourceExhausted       resource_exhausted        disk, memory, accelerators
│   └── DiskFull            disk_full
├── EngineFailed            engine_failed             the engine died or broke its stream
└── SetupError              setup_error               this machine is not ready; says what to do
"""


class FoundryError(Exception):
    """Base of all errors that a user may see.

    The message is the only positional argument: anything else breaks unpickling across Ray.
    """

    code = "internal_error"

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.details = details

    @property
    def message(self) -> str:
        return str(self.args[0])


class InvalidRequest(FoundryError):
    code = "invalid_value"


class InvalidDataset(InvalidRequest):
    code = "invalid_dataset"


class InvalidArtifact(InvalidRequest):
    code = "invalid_artifact"


class TrainingDiverged(InvalidRequest):
    code = "training_diverged"


class InvalidConfiguration(InvalidRequest):
    code = "invalid_configuration"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class BodyTooLarge(InvalidRequest):
    code = "body_too_large"


class BodyTooSlow(InvalidRequest):
    code = "body_too_slow"


class UnsupportedFeature(InvalidRequest):
    code = "unsupported"


class Unauthenticated(FoundryError):
    code = "invalid_api_key"


class PermissionDenied(FoundryError):
    code = "permission_denied"


class NotFound(FoundryError):
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class Conflict(FoundryError):
    code = "conflict"


class VersionExists(Conflict):
    code = "version_exists"


class AliasMoved(Conflict):
    code = "alias_moved"


class AliasInUse(Conflict):
    code = "alias_in_use"


class VersionInUse(Conflict):
    code = "version_in_use"


class LeaseLost(Conflict):
    code = "lease_lost"


class AlreadyRunning(Conflict):
    code = "already_running"


class Unavailable(FoundryError):
    code = "unavailable"


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"


class CommitUnknown(DatabaseUnavailable):
    """PostgreSQL went away during a commit: what was to be stored may be there or not."""

    code = "commit_unknown"


class Overloaded(Unavailable):
    code = "overloaded"


class NoHealthyUpstream(Unavailable):
    code = "no_healthy_upstream"


class DeadlineExceeded(Unavailable):
    code = "deadline_exceeded"


class ResourceExhausted(FoundryError):
    code = "resource_exhausted"


class DiskFull(ResourceExhausted):
    code = "disk_full"


class EngineFailed(FoundryError):
    code = "engine_failed"


class SetupError(FoundryError):
    code = "setup_error"
