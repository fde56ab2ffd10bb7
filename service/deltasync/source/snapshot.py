"""Which tables the connector's initial snapshot reads: those of the publication, and no others."""

from __future__ import annotations

import re

from deltasync.environment import PREFIX
from deltasync.postgres.connect import connect
from deltasync.settings import Settings

VARIABLE = PREFIX + "SOURCE_TABLES"


def template_variables(settings: Settings) -> dict[str, str]:
    """`settings.variables()`, and the published tables as the patterns that Debezium's lists take.

    A table that is not published (no key, a partition beside its root) would be read by the initial
    snapshot and never streamed. `table.include.list` cannot leave it out: it may join the publication
    later. Where [source] dsn is not set, every table of the schemas stands for them.
    """
    variables = settings.variables()
    if settings.source.dsn is None:
        tables = f"({variables[f'{PREFIX}SOURCE_SCHEMAS']})[.].*,deltasync[.](schema_log|canary)"
    else:
        tables = ",".join(_published(settings))
    return {**variables, VARIABLE: tables}


def _published(settings: Settings) -> list[str]:
    with connect(settings.source.conninfo() or "", name="connectors") as source:
        rows = source.execute(
            "SELECT schemaname || '.' || tablename FROM pg_publication_tables"
            " WHERE pubname = %s AND (schemaname, tablename) <> ('deltasync', 'signal') ORDER BY 1",
            [settings.publication],
        ).fetchall()
    return [pattern(name) for (name,) in rows]


def pattern(name: str) -> str:
    """A Java regular expression for one name; commas separate the list's entries."""
    return re.sub(r"[^A-Za-z0-9_]", lambda found: f"\\x{{{ord(found[0]):x}}}", name)
