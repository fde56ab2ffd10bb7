"""Connectors as files: JSON in which `${DELTASYNC_…}` stands for a setting, and no secret ever stands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from deltasync.connect import rules
from deltasync.connect.masking import holds_plain_secret
from deltasync.errors import RefusedError, SettingsError

REFERENCE = "${file:/run/secrets/source.properties:password}"
UNAVAILABLE_VALUE = "DELTASYNC_UNAVAILABLE_VALUE"
RAW_TEXT = "DELTASYNC_CONNECT_RAW_TEXT"
CONSISTENCY = "DELTASYNC_CONSISTENCY"
KEYLESS = "DELTASYNC_SOURCE_KEYLESS"

# Where a file has one of these, what begins with it is not generated.
_LISTS = frozenset({"column.exclude.list", "snapshot.select.statement.overrides"})

# ${NAME} is ours; ${provider:…} is resolved by Connect's workers and stays as it is.
_VARIABLE = re.compile(r"\$\{(DELTASYNC_[^}]*|[A-Za-z_]\w*)\}")
_HINTS = {
    UNAVAILABLE_VALUE: "Make one with `openssl rand -hex 16` and keep it for ever: it marks what did not travel.",
    "DELTASYNC_CONNECT_SOURCE_HOST": "Debezium takes one host: where the source's DSN names several, the primary's.",
    "DELTASYNC_CONNECT_SOURCE_PASSWORD": f"Give a reference that Connect resolves, like {REFERENCE}.",
}


class Connector(NamedTuple):
    """A connector as it should be: all variables replaced, references to secrets kept."""

    name: str
    config: Mapping[str, str]
    origin: Path


def shipped() -> Path:
    """The connector that comes with deltasync: in the wheel, or in the checkout's `connectors/`."""
    package = Path(__file__).parents[1]
    places = (package / "connectors", package.parents[1] / "connectors")
    return next(place for place in places if place.is_dir()) / "source-postgres.json"


def raw_text_folder() -> Path:
    """The jar of ours as sources, and what a connector that uses it sets besides (`connector.json`)."""
    return shipped().with_name("raw-text")


def _transaction_folder() -> Path:
    """What a connector sets besides where the transaction of each change is to be known (`connector.json`)."""
    return shipped().with_name("transaction")


def _shipped_text(variables: Mapping[str, str]) -> str:
    document = json.loads(_read(shipped()))
    if variables.get(RAW_TEXT) == "true":
        document["config"] |= json.loads(_read(raw_text_folder() / "connector.json"))
    if variables.get(CONSISTENCY) == "transaction" or variables.get(KEYLESS) == "true":
        document["config"] |= json.loads(_read(_transaction_folder() / "connector.json"))
    return json.dumps(document)


def load(
    chosen: Sequence[Path], variables: Mapping[str, str], generated: Mapping[str, str] = MappingProxyType({})
) -> list[Connector]:
    """The connectors in these files and folders (`*.json`), or the shipped one where none is chosen.

    The shipped one carries `raw-text/connector.json` where the setting `connect.raw_text` is true, and
    `transaction/connector.json` where `consistency` is "transaction", or `source.keyless` true. Debezium's for
    PostgreSQL carry what is `generated` from the source's tables, unless they say it themselves.

    Raises SettingsError for a file that cannot be read, names an unset variable or repeats a connector's
    name; RefusedError for a plain secret or a value that would lose changes (see `rules`).
    """
    connectors: dict[str, Connector] = {}
    texts = [(file, _read(file)) for path in chosen for file in _files(path)]
    for file, text in texts or [(shipped(), _shipped_text(variables))]:
        connector = _with(generated, parse(text, file, variables))
        if connector.name in connectors:
            raise SettingsError(
                f"The connector {connector.name} stands in {connectors[connector.name].origin} and in {file}.",
                remedy="Give each connector a name of its own, or choose one file with --file.",
            )
        connectors[connector.name] = connector
    return list(connectors.values())


def _with(generated: Mapping[str, str], connector: Connector) -> Connector:
    own = connector.config
    if not rules.is_postgres(own):
        return connector
    more = {key: value for key, value in generated.items() if not any(map(key.startswith, _LISTS & own.keys()))}
    return connector._replace(config={**more, **own})


def parse(text: str, origin: Path, variables: Mapping[str, str]) -> Connector:
    """Read one connector; `origin` names the file in errors. Raises as `load` does."""
    try:
        document = json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, origin))
    except json.JSONDecodeError as error:
        raise SettingsError(
            f"{origin}, line {error.lineno}: this is not JSON ({error.msg}).", remedy="Correct the file."
        ) from None
    name, config = _shape(document, origin)
    name = _substitute(name, origin, variables)
    config = {key: _substitute(value, origin, variables) for key, value in config.items()}
    _refuse_plain_secrets(config, origin)
    agreed = rules.Agreed(
        variables.get(UNAVAILABLE_VALUE),
        raw_text=variables.get(RAW_TEXT) == "true",
        transactions=variables.get(CONSISTENCY) == "transaction",
        keyless=variables.get(KEYLESS) == "true",
    )
    rules.check(name, config, agreed)
    return Connector(name, config, origin)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.json"))
    if not found:
        raise SettingsError(f"The folder {path} holds no connector.", remedy="Put files named *.json into it.")
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(
            f"The connector's file {file} cannot be read: {reason}.", remedy="Correct --file."
        ) from None


def _object(pairs: list[tuple[str, object]], origin: Path) -> dict[str, object]:
    keys = [key for key, _ in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise SettingsError(f"{origin}: {twice[0]} is set twice.", remedy="Keep one of the two.")
    return dict(pairs)


def _shape(document: object, origin: Path) -> tuple[str, dict[str, str]]:
    match document:
        case {"name": str(name), "config": dict(settings), **rest} if not rest:
            pass
        case _:
            raise SettingsError(
                f'{origin}: a connector is {{"name": "…", "config": {{…}}}} and nothing else.',
                remedy="Compare it with the shipped source-postgres.json.",
            )
    config = {}
    for key, value in settings.items():
        if not isinstance(value, str | int | float):
            raise SettingsError(f"{origin}: the value of {key} is no text or number.", remedy="Write it as a string.")
        config[key] = str(value).lower() if isinstance(value, bool) else str(value)
    if "connector.class" not in config:
        raise SettingsError(f"{origin}: connector.class is missing.", remedy="Name the connector's Java class.")
    return name, config


def _substitute(value: str, origin: Path, variables: Mapping[str, str]) -> str:
    def replacement(found: re.Match[str]) -> str:
        name = found[1]
        if name not in variables:
            hint = _HINTS.get(name, f"These have a value: {', '.join(sorted(variables))}.")
            raise SettingsError(
                f"{origin}: the variable {name} has no value.",
                remedy=f"Set {name} in the environment (or its setting in deltasync.toml), or correct its name. {hint}",
            )
        return variables[name]

    return _VARIABLE.sub(replacement, value)


def _refuse_plain_secrets(config: Mapping[str, str], origin: Path) -> None:
    for key, value in config.items():
        if holds_plain_secret(key, value):
            raise RefusedError(
                f"{origin}: {key} would carry a secret that everyone who reaches Connect can read.",
                remedy="Keep it in a file on Connect's workers and give a reference to it, "
                f"like {REFERENCE} (config.providers, see connectors/README.md).",
            )
