"""The only reader of the environment.

Settings are built in entry points and handed down by section. Variables are
`FOUNDRY_<SECTION>__<FIELD>`; an unknown `FOUNDRY_*` variable is an error: a misspelled one would
otherwise be ignored in silence.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from foundry.errors import SetupError
from foundry.validation import find_problem

_PREFIX = "FOUNDRY_"
# IPv4 on purpose: Ray and HAProxy take the address literally, and `localhost` may be `::1`.
LOOPBACK = "127.0.0.1"
HIDDEN = "set, and hidden"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatabaseSettings(_Section):
    url: SecretStr | None = Field(
        default=None,
        description="postgresql+asyncpg://… of an external server; unset: embedded PostgreSQL",
    )
    migration_url: SecretStr | None = Field(
        default=None, description="of the role that owns the tables; unset: `url`"
    )
    gateway_url: SecretStr | None = Field(
        default=None, description="of the role that the gateway uses; unset: `url`"
    )
    pool_size: int = Field(default=5, ge=1, le=100, description="connections per process")
    connect_timeout_s: float = Field(default=10.0, gt=0)
    statement_timeout_s: float = Field(default=30.0, gt=0, description="kept by the server")
    command_timeout_s: float = Field(
        default=35.0,
        gt=0,
        description="kept by the client, for a server that is frozen or cut off",
    )


class ObjectSettings(_Section):
    url: str | None = Field(
        default=None, description="s3://bucket/prefix; unset: a directory under FOUNDRY_HOME"
    )
    endpoint_url: str | None = Field(default=None, description="S3 endpoint of an on-prem store")
    region: str = "us-east-1"
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None


class RaySettings(_Section):
    address: str | None = Field(
        default=None, description="host:port of an existing cluster's GCS; unset: a local Ray"
    )
    port: int = Field(default=6380, ge=1, le=65535, description="GCS port of the local Ray")
    dashboard_port: int = Field(default=8265, ge=1, le=65535)
    dashboard_host: str = LOOPBACK
    num_cpus: int | None = Field(default=None, ge=1, description="unset: the machine's cores")
    object_store_mb: int = Field(default=256, ge=80, description="shared memory of the local Ray")
    start_timeout_s: float = Field(default=120.0, gt=0)
    grows: bool = Field(
        default=False,
        description="nodes join when jobs wait for them: a job that no node could hold today is "
        "queued instead of refused",
    )


class HttpSettings(_Section):
    host: str = LOOPBACK
    port: int = Field(default=8000, ge=1, le=65535)
    max_body_bytes: int = Field(default=8 * 2**20, ge=1024)
    max_upload_bytes: int = Field(default=256 * 2**20, ge=1024)
    min_upload_bytes_s: int = Field(
        default=32 * 1024,
        ge=1,
        description="an upload that is slower over its whole body is refused, after 30 s",
    )
    max_in_flight: int = Field(default=512, ge=1, description="requests per gateway replica")
    request_timeout_s: float = Field(default=600.0, gt=0)


class ServingSettings(_Section):
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: float32 on CPU, the model's own on an accelerator"
    )
    max_model_len: int = Field(default=2048, ge=16)
    max_num_seqs: int = Field(default=16, ge=1)
    max_loras: int = Field(default=4, ge=1, description="adapters active at once in one engine")
    max_cpu_loras: int = Field(default=64, ge=1)
    max_lora_rank: int = Field(default=64, ge=8)
    kv_cache_gb: float = Field(default=0.5, gt=0, description="KV cache of a CPU engine, GiB")
    engine_start_timeout_s: float = Field(default=900.0, gt=0)
    stop_drain_s: float = Field(
        default=120.0,
        ge=0,
        le=900.0,
        description="running requests of a stopped endpoint are cut off after this",
    )


class SecuritySettings(_Section):
    pepper_file: Path | None = Field(
        default=None,
        description="32 random bytes; required with database.url, else secrets/pepper under home",
    )
    bcrypt_cost: int = Field(default=12, ge=4, le=16)


class OutcomeSettings(_Section):
    window_s: float = Field(default=900.0, gt=0, description="of measured endpoint windows")
    flush_s: float = Field(default=5.0, gt=0, description="between a gateway's writes of them")
    close_s: float = Field(default=60.0, gt=0, description="between looks at finished windows")
    min_requests: int = Field(
        default=200, ge=5, description="streamed requests below which a window is no outcome"
    )
    review_s: float = Field(
        default=86_400.0, gt=0, description="between searches for better configurations"
    )


class RetentionSettings(_Section):
    cache_gb: float = Field(
        default=50.0, gt=0, description="of a node's copies of models and datasets, GiB"
    )
    resumable_days: float = Field(
        default=30.0, gt=0, description="a failed or cancelled job keeps its checkpoints so long"
    )


class ImportSettings(_Section):
    hugging_face_mirror: str | None = Field(
        default=None,
        description="https://… of a mirror of the Hugging Face hub, for imports of hf:ORG/NAME",
    )
    hugging_face_token: SecretStr | None = Field(default=None, description="sent to the mirror")


class ClientSettings(_Section):
    url: str | None = Field(default=None, description="a cluster's base URL, for CLI and SDK")
    api_key: SecretStr | None = None
    timeout_s: float = Field(default=60.0, gt=0)


class Settings(BaseSettings):
    """All settings of one process."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    home: Path = Field(default_factory=lambda: Path.home() / ".foundry")
    stack_id: str | None = Field(
        default=None, description="set by `foundry up` on the processes it owns; never by hand"
    )
    database: DatabaseSettings = DatabaseSettings()
    objects: ObjectSettings = ObjectSettings()
    ray: RaySettings = RaySettings()
    http: HttpSettings = HttpSettings()
    serving: ServingSettings = ServingSettings()
    security: SecuritySettings = SecuritySettings()
    budsim_data: Path | None = Field(
        default=None,
        description="folder that holds serving-benchmarks and traces, for `foundry budsim fit`",
    )
    outcomes: OutcomeSettings = OutcomeSettings()
    retention: RetentionSettings = RetentionSettings()
    imports: ImportSettings = ImportSettings()
    client: ClientSettings = ClientSettings()

    @property
    def base_url(self) -> str:
        """Where this stack's HTTP listens, no trailing slash."""
        host = LOOPBACK if self.http.host == "0.0.0.0" else self.http.host
        return f"http://{host}:{self.http.port}"


def variable_names() -> Iterator[str]:
    """Every environment variable that a setting answers to."""
    for name, field in Settings.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, _Section):
            yield from (f"{_PREFIX}{name}__{inner}".upper() for inner in annotation.model_fields)
        else:
            yield f"{_PREFIX}{name}".upper()


@dataclass(frozen=True, slots=True)
class SettingDescription:
    """A setting for a reader.

    Attributes:
        value: as it would be used, where it is valid; secrets are hidden.
    """

    variable: str
    value: object
    source: Literal["environment", "default"]
    description: str | None


def describe_settings(settings: Settings | None = None) -> Iterator[SettingDescription]:
    """Every setting that there is.

    Args:
        settings: as loaded; None: they cannot be, so what the environment says is told as it is.
    """
    given = {name.upper(): value for name, value in os.environ.items()}
    used = settings or Settings.model_construct()
    for variable, value in _values(used):
        if settings is None:
            value = given.get(variable, value)
        field = _field_of(variable)
        hidden = _is_secret(value) or (value is not None and "SecretStr" in str(field.annotation))
        yield SettingDescription(
            variable,
            HIDDEN if hidden else value,
            "environment" if variable in given else "default",
            field.description,
        )


def _field_of(variable: str) -> FieldInfo:
    names = variable.removeprefix(_PREFIX).lower().split("__")
    field = Settings.model_fields[names[0]]
    for name in names[1:]:
        assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        field = field.annotation.model_fields[name]
    return field


def _is_secret(value: object) -> bool:
    if isinstance(value, SecretStr):
        return True
    if not isinstance(value, str) or "://" not in value:
        return False
    try:
        return bool(urlsplit(value).password)
    except ValueError:  # No address after all, so what is in it cannot be told.
        return "@" in value


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    known = set(variable_names())
    ours = (name for name in environment if name.upper().startswith(_PREFIX))
    return sorted(name for name in ours if name.upper() not in known)


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        SetupError: a variable is unknown, or its value is out of range.
    """
    if unknown := unknown_variables(os.environ):
        raise SetupError(
            f"unknown setting {', '.join(unknown)}: check the spelling; "
            "`foundry config show` lists every setting"
        )
    try:
        settings = Settings()
    except ValidationError as error:
        problem = find_problem(error.errors())
        name = _PREFIX + "__".join(map(str, problem.path)).upper()
        raise SetupError(problem.tell(name)) from error
    return settings.model_copy(update={"home": settings.home.expanduser().absolute()})


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that make a child process load these very settings."""
    found: dict[str, str] = {}
    for variable, value in _values(settings):
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        if plain is not None:
            found[variable] = str(plain)
    return found


def secret_variables(settings: Settings) -> set[str]:
    """Variables whose values no file, argument or output may hold, whatever they are called."""
    return {variable for variable, value in _values(settings) if _is_secret(value)}


def _values(settings: Settings) -> Iterator[tuple[str, object]]:
    for variable in variable_names():
        value: object = settings
        for part in variable.removeprefix(_PREFIX).lower().split("__"):
            value = getattr(value, part)
        yield variable, value


def child_environment(**overrides: str) -> dict[str, str]:
    """This process's environment for a child, with `overrides` on top."""
    return {**os.environ, **overrides}


def ray_submission_id() -> str | None:
    """Name of the Ray job whose driver this process is; None outside of one."""
    try:
        found = json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])
        return str(found["metadata"]["job_submission_id"])
    except (KeyError, ValueError):
        return None
