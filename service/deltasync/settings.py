"""The settings: one `deltasync.toml`, overridden by `DELTASYNC_*`, read once and frozen.

A setting `dsn` in the section `[replica]` is `DELTASYNC_REPLICA_DSN` in the environment; the same
name in `${...}` stands for it in a connector's template. `Secret` values never show in `deltasync settings`,
logs or tracebacks.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from deltasync import environment, invalid
from deltasync.environment import PREFIX
from deltasync.errors import SettingsError
from deltasync.policy import Ddl
from deltasync.table import TableId


def _name(value: str) -> str:
    if not value.isascii() or not value.replace("_", "a").isalnum() or not value.islower():
        raise ValueError
    return value


def _pattern(name: str) -> str:
    """A regular expression for exactly this name; a comma would end it in a connector's list."""
    return re.escape(name).replace(",", r"\,")


Name = Annotated[
    str,
    Field(min_length=1, max_length=40, description="at most 40 lower-case letters, digits and _, in quotes"),
    AfterValidator(_name),
]


def _table_name(value: str) -> str:
    schema, dot, table = value.partition(".")
    if not (schema and dot and table):
        raise ValueError
    return value


TableName = Annotated[str, AfterValidator(_table_name)]


def readable_conninfo(conninfo: str, name: str = "A PostgreSQL connection string") -> str:
    """The connection string as it is. Raises SettingsError, and shows nothing of it, where it cannot be read."""
    try:
        conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        raise SettingsError(
            f"{name} cannot be read.",
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

    _section: ClassVar[str]

    def conninfo(self) -> str | None:
        """The service's connection string, its password read from `password_file` if that is set.

        Raises SettingsError where one of the two cannot be read.
        """
        if self.dsn is None:
            return None
        conninfo = readable_conninfo(self.dsn.get_secret_value(), environment.place(f"{self._section}.dsn"))
        if self.password_file is None:
            return conninfo
        try:
            return make_conninfo(conninfo, password=self.password_file.read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            where = environment.place(f"{self._section}.password_file")
            raise SettingsError(
                f"The password file {self.password_file} cannot be read: {why}.",
                remedy=f"Correct {where}, or let the service's user read the file.",
            ) from None

    def admin_conninfo(self) -> str | None:
        """The superuser's connection string, or the service's where there is no other. Raises as `conninfo`."""
        if self.admin_dsn is None:
            return self.conninfo()
        return readable_conninfo(self.admin_dsn.get_secret_value(), environment.place(f"{self._section}.admin_dsn"))


class Source(Database):
    """The captured database. Only set-up, `wait`, and the slot's figures in `lag` connect to it."""

    schemas: tuple[str, ...] = Field(("public",), examples=[["shop", "billing"]])
    exclude: tuple[TableName, ...] = Field(
        (), description="a list of tables as schema.table, in quotes", examples=[["shop.audit"]]
    )
    slot: str | None = None
    publication: str | None = None
    keyless: bool = False
    failover: bool = False

    _section = "source"


class Replica(Database):
    """The database that is kept equal."""

    synchronous_commit: Literal["off", "on"] = "off"
    constraints: Literal["replica-role", "ordered"] = "replica-role"
    retry_s_max: float = Field(300.0, gt=0)

    _section = "replica"


class Kafka(_Section):
    """The broker. `options` go to librdkafka as they are (security, timeouts)."""

    bootstrap: str | None = None
    group: str | None = None
    topic_prefix: Name | None = None
    session_timeout_s: float = Field(10.0, ge=6, le=300)
    options: dict[str, str | int | float | bool] = Field(
        default_factory=dict, repr=False, examples=[{"security.protocol": "SSL"}]
    )


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


class Parking(_Section):
    """How many records of a partition may be set aside: those that failed, and in all. 0 stops it at the first."""

    failed_max: int = Field(100, ge=0)
    records_max: int = Field(10_000, ge=1)


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
    )

    pipeline: Name = "deltasync"
    consistency: Literal["key", "transaction"] = "key"
    unavailable_value: str | None = Field(
        None,
        min_length=16,
        pattern=r"^[A-Za-z0-9_]+$",
        description="a random word of at least 16 letters, digits and _, in quotes",
    )
    log_format: Literal["auto", "json", "text"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    source: Source = Source()
    replica: Replica = Replica()
    kafka: Kafka = Kafka()
    connect: Connect = Connect()
    batch: Batch = Batch()
    parking: Parking = Parking()
    monitor: Monitor = Monitor()
    ddl: Ddl = Ddl()
    tables: dict[TableName, TableRules] = Field(
        default_factory=dict, examples=[{"shop.place": {"on_unsupported": "skip-column"}}]
    )

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if self.consistency == "transaction" and self.replica.constraints == "ordered":
            # Its initial snapshot brings rows before those that they reference.
            message = 'consistency = "transaction" needs constraints = "replica-role"'
            remedy = 'Leave out `constraints`, or choose consistency = "key".'
            raise PydanticCustomError(
                "together", message, {"names": ["consistency", "replica.constraints"], "remedy": remedy}
            )
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
    def transaction_topic(self) -> str:
        """Where Debezium tells of the begin and the end of each transaction."""
        return f"{self.topic_prefix}.transaction"

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

        Connect's view of the source (`[connect] source_host` …) defaults to that of the source's DSN, where that names
        one host: Debezium takes no more. The schemas are one regular expression for a list like `table.include.list`.
        """
        known = conninfo_to_dict(self.source.conninfo() or "")
        if "," in str(known.get("host")):
            known |= {"host": None, "port": None}
        found = {
            "PIPELINE": self.pipeline,
            "TOPIC_PREFIX": self.topic_prefix,
            "SOURCE_SLOT": self.slot,
            "SOURCE_PUBLICATION": self.publication,
            "SOURCE_KEYLESS": str(self.source.keyless).lower(),
            "SOURCE_FAILOVER": str(self.source.failover).lower(),
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
                where = f"`{key}` in [{section}]" if section else f"`{key}`"
                raise SettingsError(
                    f"The setting {name} is missing.",
                    remedy=f"Set {environment.variable(name)} in the environment, or {where} of {environment.file()}.",
                )


def load(**overrides: Any) -> Settings:  # noqa: ANN401 - pydantic checks them
    """Read `deltasync.toml` (here, or where DELTASYNC_CONFIG says) and the environment.

    Raises SettingsError for an unknown key, a wrong type or a file that cannot be read; the error
    names the key and never shows its value.
    """
    written = _written()
    schema = Settings.model_json_schema()
    known = {environment.variable(name): node for name, node in invalid.settings_of(schema)}
    for name, value in sorted(written.environment.items()):
        if name not in known and environment.is_set(name):
            raise invalid.unknown_variable(name, schema)
        if known.get(name, {}).get("type") in {"array", "object"} and not _is_json(value):
            raise invalid.not_json(name, known[name])

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, dict(written.content))

    try:
        return FromFile(**overrides)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise invalid.refused(first, schema, written) from None


def _written() -> invalid.Written:
    file = environment.file()
    if environment.file_is_named() and not file.is_file():
        raise SettingsError(f"There is no settings file {file}.", remedy="Correct DELTASYNC_CONFIG, or unset it.")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except OSError as error:
        why = f"The settings file {file} cannot be read: {error.strerror}."
        raise SettingsError(why, remedy="Let the service's user read it.") from None
    except ValueError as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise SettingsError(f"The settings file {file} is not valid TOML: {why}.", remedy="Correct it there.") from None
    return invalid.Written(file, content, environment.given())


def _is_json(value: str) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True


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
    for name, _ in invalid.settings_of(Settings.model_json_schema()):
        section, _, key = name.rpartition(".")
        holder = getattr(settings, section) if section else settings
        given = key in holder.model_fields_set and (not section or section in settings.model_fields_set)
        origin: Literal["environment", "file", "default"] = "file" if given else "default"
        variable = environment.variable(name)
        if environment.is_set(variable):
            origin = "environment"
        found.append(InForce(name, variable, getattr(holder, key), origin))
    return found


def as_variables(settings: Settings, names: Collection[str]) -> dict[str, str]:
    """These settings (`section.key`), as far as the user has set them, as variables of the environment."""
    values = settings.model_dump(mode="json")
    found = {}
    for one in in_force(settings):
        if one.name in names and one.origin != "default":
            section, _, key = one.name.rpartition(".")
            value = (values[section] if section else values)[key]
            found[one.variable] = value if isinstance(value, str) else json.dumps(value)
    return found
