"""The values that a Debezium connector must have so that no change is lost or altered in silence.

One row for each setting. Where a connector does not set it, Debezium's or Connect's default counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from deltasync.errors import RefusedError

_POSTGRES = {"io.debezium.connector.postgresql.PostgresConnector", "PostgresConnector", "Postgres"}
_JSON = "org.apache.kafka.connect.json.JsonConverter"
PLACEHOLDER = "unavailable.value.placeholder"


class Rule(NamedTuple):
    """`allowed` is a regular expression for the whole value; `default` counts where `key` (it may hold *) is absent."""

    key: str
    allowed: str
    default: str | None
    why: str


class Refusal(NamedTuple):
    """A setting, what it says (or the default that counts), and why that is refused."""

    key: str
    value: str
    why: str


RULES = (
    Rule("plugin.name", "pgoutput", "decoderbufs", "the publication exists for pgoutput only"),
    Rule(
        "publication.autocreate.mode",
        "disabled",
        "all_tables",
        "`deltasync source setup` makes it; Debezium's own misses new tables or makes keyless ones read-only",
    ),
    Rule("snapshot.mode", "initial|no_data", "initial", "a second snapshot brings no deletes: old rows stay for ever"),
    Rule("offset.mismatch.strategy", "no_validation", "no_validation", "it steps over changes that nobody has read"),
    Rule("slot.drop.on.stop", "false", "false", "changes made while the connector is stopped would be lost"),
    Rule("skipped.operations", "none", "t", "skipped operations never reach the replica; the default skips TRUNCATE"),
    Rule("errors.tolerance", "none", "none", "what cannot be written is dropped, and the task stays RUNNING"),
    Rule("errors.max.retries", r"\d+", "-1", "a failing snapshot is repeated for ever, and the task stays RUNNING"),
    Rule("event.converting.failure.handling.mode", "fail", "warn", "a value that cannot be converted becomes NULL"),
    Rule("event.processing.failure.handling.mode", "fail", "fail", "a change that cannot be processed is skipped"),
    Rule("key.converter", re.escape(_JSON), _JSON, "deltasync reads JSON"),
    Rule("value.converter", re.escape(_JSON), _JSON, "deltasync reads JSON"),
    Rule("key.converter.replace.null.with.default", "false", "true", "NULL becomes the column's default"),
    Rule("value.converter.replace.null.with.default", "false", "true", "NULL becomes the column's default"),
    Rule("decimal.handling.mode", "string", "precise", "precise fails on NaN and drops trailing zeros, double rounds"),
    Rule("interval.handling.mode", "string", "numeric", "numeric takes a month for 30.4375 days"),
    Rule(
        "time.precision.mode",
        "microseconds",
        "adaptive",
        "deltasync reads microseconds; connect cuts them off, isostring makes 24:00 into 00:00",
    ),
    Rule("binary.handling.mode", "hex", "bytes", "deltasync reads hex; base64 sends an unchanged large value as NULL"),
    Rule("hstore.handling.mode", "json", "json", "deltasync reads JSON"),
    Rule("include.unknown.datatypes", "true", "false", "columns of types that Debezium does not know are left out"),
    Rule("producer.override.acks", "all|-1", "all", "a record that only one broker has can vanish with it"),
    Rule(
        "producer.override.max.in.flight.requests.per.connection",
        "1",
        "1",
        "a repeated request can be overtaken, so that an older change wins",
    ),
    Rule(
        "topic.creation.*.cleanup.policy",
        "delete",
        None,
        "compaction removes the record that holds a large value and keeps the later one that does not",
    ),
)


# What a connector sets besides where tables without a key are captured.
KEYLESS_RULES = (
    Rule(
        "provide.transaction.metadata",
        "true",
        "false",
        "equal rows of a table without a key are told apart by it alone (setting source.keyless)",
    ),
    Rule(
        "snapshot.max.threads", "1", "1", "rows of a table without a key are known by the order in which they are read"
    ),
)
# What a connector sets besides where Connect has the jar of connectors/raw-text.
_RAW = "deltasync decodes what the raw-text converter delivers, and follows the header (setting connect.raw_text)"
RAW_TEXT_RULES = (
    Rule("converters", r"(.*,\s*)?raw(\s*,.*)?", "", _RAW),
    Rule("raw.type", r"org\.deltasync\.connect\.RawText", "", _RAW),
    Rule("raw.types", re.escape("vector|halfvec|sparsevec"), "", _RAW),
    Rule("transforms", r"(.*,\s*)?table(\s*,.*)?", "", _RAW),
    Rule("transforms.table.type", r"org\.deltasync\.connect\.TableHeader", "", _RAW),
    Rule("column.propagate.source.type", re.escape(".*"), "", _RAW),
    Rule(
        "header.converter",
        r"org\.apache\.kafka\.connect\.storage\.SimpleHeaderConverter",
        "org.apache.kafka.connect.storage.SimpleHeaderConverter",
        "deltasync reads the table's header as text",
    ),
)
# What a connector sets besides where the setting consistency is "transaction".
_WHOLE = "deltasync is to apply transactions whole (setting consistency), and has to be told where they end"
TRANSACTION_RULES = (
    Rule("provide.transaction.metadata", "true", "false", _WHOLE),
    Rule("topic.transaction", "transaction", "transaction", _WHOLE),
    Rule(
        "message.prefix.exclude.list",
        re.escape(".*"),
        "",
        "logical messages are counted in their transactions, and do not tell which run of the connector sent them",
    ),
)
# What a connector sets besides in both cases.
RUN_RULES = (
    Rule(
        "extended.headers.enabled",
        "true",
        "true",
        "the header that tells which run of the connector sent a record tells what comes again from what is new",
    ),
)
RAW_PLACEHOLDER = "raw.placeholder"
_OURS = "org.deltasync.connect."


class Agreed(NamedTuple):
    """The settings by which both sides have to agree, `unavailable_value` and `connect.raw_text` among them.

    `transactions` is true where `consistency` is "transaction"; `keyless` is `source.keyless`.
    """

    unavailable_value: str | None
    raw_text: bool = False
    transactions: bool = False
    keyless: bool = False


def is_postgres(config: Mapping[str, str]) -> bool:
    """True for Debezium's connector for PostgreSQL."""
    return config.get("connector.class") in _POSTGRES


def check(name: str, config: Mapping[str, str], agreed: Agreed) -> None:
    """Refuse a PostgreSQL connector that could lose or alter a value. Others are not judged.

    Raises RefusedError naming every setting and its reason.
    """
    refused = refusals(config, agreed)
    if refused:
        listed = "; ".join(f"{found.key} = {found.value} ({found.why})" for found in refused)
        raise RefusedError(
            f"The connector {name} would lose or alter values: {listed}.",
            remedy="Take these values from the shipped source-postgres.json, with connect.raw_text those of "
            "raw-text/connector.json too, with consistency those of transaction/connector.json; connectors/README.md "
            "says more.",
        )


def refusals(config: Mapping[str, str], agreed: Agreed) -> list[Refusal]:
    """What `check` refuses, setting by setting; nothing where it is no PostgreSQL connector of Debezium's."""
    if not is_postgres(config):
        return []
    found = [*_refusals(config, RULES), *_refused_placeholder(config, PLACEHOLDER, agreed.unavailable_value)]
    if agreed.transactions:
        found += _refusals(config, TRANSACTION_RULES)
    if agreed.keyless:
        found += _refusals(config, KEYLESS_RULES)
    if agreed.transactions or agreed.keyless:
        found += _refusals(config, RUN_RULES)
    if agreed.raw_text:
        found += _refusals(config, RAW_TEXT_RULES)
        found += _refused_placeholder(config, RAW_PLACEHOLDER, agreed.unavailable_value)
    else:
        why = "deltasync would not understand what it delivers: the setting connect.raw_text is false"
        found += [Refusal(key, value, why) for key, value in config.items() if value.strip().startswith(_OURS)]
    return found


def _refusals(config: Mapping[str, str], rules: Sequence[Rule]) -> Iterator[Refusal]:
    for rule in rules:
        found = {key: value for key, value in config.items() if fnmatchcase(key, rule.key)}
        if not found and rule.default is not None:
            found = {rule.key: rule.default}
        for key, value in found.items():
            if not re.fullmatch(rule.allowed, value.strip(), re.IGNORECASE):
                yield Refusal(
                    key, value if key in config else f"{value}, the default" if value else "nothing", rule.why
                )


def _refused_placeholder(config: Mapping[str, str], key: str, wanted: str | None) -> Iterator[Refusal]:
    value = config.get(key)
    if value is None or value != wanted:
        shown = "Debezium's default" if value is None else "a word of its own"
        yield Refusal(
            key,
            shown,
            "it must be the setting unavailable_value: any other word is written into the replica as if it were data",
        )
