"""`deltasync settings`: what is in force, secrets masked."""

from __future__ import annotations

from typing import Annotated

import psycopg
import typer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from deltasync import settings as settings_module
from deltasync.cli import output
from deltasync.connect.masking import MASK, mask, shown

_DSN_SECRETS = ("password", "sslpassword", "oauth_client_secret")
# Options of librdkafka's that hold a secret under a name that does not say so.
_OPTION_SECRETS = ("ssl.key.pem", "sasl.oauthbearer.config")

# Unset, these are named after the pipeline.
_BY_PIPELINE = ("source.slot", "source.publication", "kafka.group", "kafka.topic_prefix")


def settings(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print every setting as it is in force, its variable in the environment, and where its value comes from.

    Passwords are never printed.

    Exit code 0: all can be read. 2: a setting is wrong; then it says where, and what is expected there.

    Examples: `deltasync settings` · `deltasync settings --json | jq '.[] | select(.from != "default")'`
    """
    found = settings_module.load()
    rows = [
        {"name": one.name, "variable": one.variable, "value": _shown(one.name, one.value), "from": one.origin}
        for one in settings_module.in_force(found)
    ]
    for row in rows:
        if row["value"] is None and row["name"] in _BY_PIPELINE:
            row |= {"value": getattr(found, str(row["name"]).rpartition(".")[2]), "from": "pipeline"}
    if as_json:
        output.json(rows)
        return
    table = output.table("setting", "variable", "value", "from")
    for row in rows:
        value = "" if row["value"] is None else _words(row["value"])
        style = "dim" if row["from"] == "default" else ""
        output.row(table, [str(row["name"]), str(row["variable"]), value, str(row["from"])], style)
    output.console.print(table)


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _shown(name: str, value: object) -> object:
    match value:
        case SecretStr():
            return _dsn(value.get_secret_value())
        case str():
            return shown(name, value)
        case dict():
            return {key: MASK if key in _OPTION_SECRETS else shown(key, str(option)) for key, option in value.items()}
        case tuple():
            return list(value)
        case None | bool() | int() | float():
            return value
        case _:
            return mask(str(value))


def _dsn(conninfo: str) -> str:
    """A connection string without its secrets; nothing of one that cannot be read."""
    try:
        known = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        return MASK
    return make_conninfo("", **{key: MASK if key in _DSN_SECRETS else value for key, value in known.items()})
