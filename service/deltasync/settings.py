"""The settings: one `deltasync.toml`, overridden by `DELTASYNC_*`, read once and frozen.

A setting `dsn` in the section `[replica]` is `DELTASYNC_REPLICA_DSN` in the environment; the same
name in `${...}` stands for it in a connector's template. This module is the only reader of the
environment. `Secret` values never show in `deltasync settings`, logs or tracebacks.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from deltasync.errors import SettingsError
from deltasync.table import TableId

PREFIX = "DELTASYNC_"
FILE = "deltasync.toml"


def _name(value: str) -> str:
    if not value.isascii() or not value.replace("_", "a").isalnum() or not value.islower():
        message = "use lower-case letters, digits and _ only: it names a slot, a publication and topics"
        raise ValueError(message)
    return value


def _pattern(name: str) -> str:
    """A regular expression for exactly this name; a comma would end it in a connector's list."""
    return re.escape(name).replace(",", r"\,")


Name = Annotated[str, Field(min_length=1, max_length=40), AfterValidator(_name)]


def _table_name(value: str) -> str:
    schema, dot, table = value.partition(".")
    if not (schema and dot and table):
        message = "name a table as schema.table"
        raise ValueError(message)
    return value


TableName = Annotated[str, AfterValidator(_table_name)]


def readable_conninfo(conninfo: str) -> str:
    """The connection string as it is. Raises SettingsError, and shows nothing of it, where it cannot be read."""
    try:
        conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        raise SettingsError(
            "A PostgreSQL connection string cannot be read.",
            remedy="Write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE, special characters percent-encoded.",
        ) from None
    return conninfo


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Database(_Section):
    """A PostgreSQL server: `dsn` for the service's own role, `admin_dsn` for set-up only."""

    dsn: SecretStr | None = None
    admin_dsn: SecretStr | None = None
    password_file: Path | None = None

    def conninfo(self) -> str | None:
        """The service's connection string, its password read from `password_file` if that is set.

        Raises SettingsError where one of the two cannot be read.
        """
        if self.dsn is None:
            return None
        conninfo = readable_conninfo(self.dsn.get_secret_value())
        if self.password_file is None:
            return conninfo
        try:
            return make_conninfo(conninfo, password=self.password_file.read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise SettingsError(
                f"The password file {self.password_file} cannot be read: {why}.",
                remedy="Correct `password_file`, or let the service's user read the file.",
            ) from None

    def admin_conninfo(self) -> str | None:
        """The superuser's connection string, or the service's where there is no other."""
        return self.admin_dsn.get_secret_value() if self.admin_dsn else self.conninfo()


class Source(Database):
    """The captured database. Only set-up, `wait`, and the slot's figures in `lag` connect to it."""

    schemas: tuple[str, ...] = ("public",)
    exclude: tuple[TableName, ...] = ()
    slot: str | None = None
    publication: str | None = None


class Replica(Database):
    """The database that is kept equal."""

    synchronous_commit: Literal["off", "on"] = "off"
    constraints: Literal["replica-role", "ordered"] = "replica-role"
    retry_s_max: float = Field(300.0, gt=0)


class Kafka(_Section):
    """The broker. `options` go to librdkafka as they are (security, timeouts)."""

    bootstrap: str | None = None
    group: str | None = None
    topic_prefix: Name | None = None
    session_timeout_s: float = Field(10.0, ge=6, le=300)
    options: dict[str, str | int | float | bool] = Field(default_factory=dict, repr=False)


class Connect(_Section):
    """Kafka Connect's REST interface, and the source's address as Connect's workers see it."""

    url: str | None = None
    source_host: str | None = None
    source_port: int | None = None
    source_database: str | None = None
    source_user: str | None = None
    source_password: str | None = None
    restart_failed_tasks: bool = True
    raw_text: bool = False


class Batch(_Section):
    """How much one transaction on the replica may hold."""

    rows_max: int = Field(10_000, ge=1, le=1_000_000)
    bytes_max: int = Field(6 * 2**20, ge=2**16, le=2**30)
    spool_bytes_max: int = Field(2**34, ge=2**20)


class Monitor(_Section):
    """Where `/metrics`, `/healthz` and `/readyz` answer; port 0 takes a free one."""

    url: str = "http://127.0.0.1:9464"
    canary_age_s_max: float = Field(10.0, gt=0)


class TableRules(_Section):
    """What is different for one table."""

    on_unsupported: Literal["refuse", "skip-column"] = "refuse"


class Settings(BaseSettings):
    """All that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        toml_file=FILE,
    )

    pipeline: Name = "deltasync"
    consistency: Literal["key", "transaction"] = "key"
    unavailable_value: str | None = Field(None, min_length=16, pattern=r"^[A-Za-z0-9_]+$")
    log_format: Literal["auto", "json", "text"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    source: Source = Source()
    replica: Replica = Replica()
    kafka: Kafka = Kafka()
    connect: Connect = Connect()
    batch: Batch = Batch()
    monitor: Monitor = Monitor()
    tables: dict[TableName, TableRules] = Field(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if self.consistency == "transaction" and self.replica.constraints == "ordered":
            # Its initial snapshot brings rows before those that they reference.
            message = 'consistency = "transaction" needs constraints = "replica-role" in [replica]'
            raise ValueError(message)
        return self

    @property
    def topic_prefix(self) -> str:
        return self.kafka.topic_prefix or self.pipeline

    @property
    def group(self) -> str:
        return self.kafka.group or self.pipeline

    @property
    def slot(self) -> str:
        return self.source.slot or self.pipeline

    @property
    def publication(self) -> str:
        return self.source.publication or self.pipeline

    @property
    def connector(self) -> str:
        return f"{self.pipeline}-source"

    @property
    def skipping(self) -> frozenset[TableId]:
        """The tables of which columns that cannot be carried exactly are left alone."""
        named = (name for name, rules in self.tables.items() if rules.on_unsupported == "skip-column")
        return frozenset(TableId(*name.split(".", 1)) for name in named)

    def variables(self) -> dict[str, str]:
        """What `${DELTASYNC_…}` stands for in a connector's template; passwords are left out.

        Connect's view of the source (`[connect] source_host` …) defaults to that of the source's DSN. The
        schemas are one regular expression for a list like `table.include.list`.
        """
        known = conninfo_to_dict(self.source.conninfo() or "")
        found = {
            "PIPELINE": self.pipeline,
            "TOPIC_PREFIX": self.topic_prefix,
            "SOURCE_SLOT": self.slot,
            "SOURCE_PUBLICATION": self.publication,
            "SOURCE_SCHEMAS": "|".join(_pattern(schema) for schema in self.source.schemas),
            "UNAVAILABLE_VALUE": self.unavailable_value,
            "CONNECT_SOURCE_HOST": self.connect.source_host or known.get("host"),
            "CONNECT_SOURCE_PORT": self.connect.source_port or known.get("port") or 5432,
            "CONNECT_SOURCE_DATABASE": self.connect.source_database or known.get("dbname"),
            "CONNECT_SOURCE_USER": self.connect.source_user or known.get("user"),
            "CONNECT_SOURCE_PASSWORD": self.connect.source_password,
            "CONSISTENCY": self.consistency,
            "CONNECT_RAW_TEXT": str(self.connect.raw_text).lower(),
        }
        return {PREFIX + name: str(value) for name, value in found.items() if value is not None}

    def need(self, *names: str) -> None:
        """Refuse to go on without these (`"replica.dsn"`). Raises SettingsError naming the first."""
        for name in names:
            section, _, key = name.rpartition(".")
            if getattr(getattr(self, section) if section else self, key) is None:
                variable = PREFIX + name.replace(".", "_").upper()
                where = f"`{key}` in [{section}]" if section else f"`{key}`"
                raise SettingsError(
                    f"The setting {name} is missing.",
                    remedy=f"Set {variable} in the environment, or {where} of {FILE}.",
                )


def load(**overrides: Any) -> Settings:  # noqa: ANN401 - pydantic checks them
    """Read `deltasync.toml` (here, or where DELTASYNC_CONFIG says) and the environment.

    Raises SettingsError for an unknown key, a wrong type or a file that cannot be read; the error
    names the key and never shows its value.
    """
    chosen = os.environ.get(PREFIX + "CONFIG")
    path = Path(chosen or FILE)
    if chosen and not path.is_file():
        raise SettingsError(f"There is no settings file {path}.", remedy=f"Correct {PREFIX}CONFIG, or unset it.")
    known = _known_variables()
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in known and not variable.startswith(PREFIX + "TEST_"):
            raise SettingsError(
                f"The environment variable {variable} is not a setting.",
                remedy="`deltasync settings` lists the names that there are; correct or unset it.",
            )

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        return FromFile(**overrides)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        variable = PREFIX + key.replace(".", "_").upper()
        raise SettingsError(
            f"The setting {key} is not valid: {first['msg'].lower()}.",
            remedy=f"Correct it in {path} or in {variable}.",
        ) from None
    except ValueError as error:
        raise SettingsError(f"The settings file {path} cannot be read: {error}.", remedy="Correct its TOML.") from None


# Names in the environment that are not settings of the service: read by load() or by tests.
_OUTSIDE = {PREFIX + "CONFIG"}


def _known_variables() -> set[str]:
    return _OUTSIDE | {_variable(name) for name in _names()}


def _names() -> list[str]:
    """Every setting there is, as `section.key`."""
    names = []
    for field, info in Settings.model_fields.items():
        section = info.annotation
        is_section = isinstance(section, type) and issubclass(section, BaseModel)
        names += [f"{field}.{key}" for key in section.model_fields] if is_section and section else [field]
    return names


def _variable(name: str) -> str:
    return PREFIX + name.replace(".", "_").upper()


class InForce(NamedTuple):
    """One setting: its variable in the environment, its value, and where that comes from.

    Secrets are still inside their `SecretStr`, but other values may hold one, too (an address, an option).
    """

    name: str
    variable: str
    value: object
    origin: Literal["environment", "file", "default"]


def in_force(settings: Settings) -> list[InForce]:
    """Every setting as it is."""
    found = []
    for name in _names():
        section, _, key = name.rpartition(".")
        holder = getattr(settings, section) if section else settings
        given = key in holder.model_fields_set and (not section or section in settings.model_fields_set)
        origin: Literal["environment", "file", "default"] = "file" if given else "default"
        variable = _variable(name)
        found.append(InForce(name, variable, getattr(holder, key), "environment" if variable in os.environ else origin))
    return found


def cache_folder() -> Path:
    """Where downloads of the embedded stack are kept, for all projects of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deltasync"


def child_environment(own: dict[str, str]) -> dict[str, str]:
    """The environment for a process that is to run with these `DELTASYNC_*` and no others."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)} | own
