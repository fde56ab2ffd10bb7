"""Templates: variables, what is refused, and errors that name the place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deltasync.connect.rules import KEYLESS_RULES, RAW_TEXT_RULES, RULES, RUN_RULES
from deltasync.connect.template import Connector, load, parse, raw_text_folder, shipped
from deltasync.errors import RefusedError, SettingsError
from deltasync.settings import Settings

ROOT = Path(__file__).parents[3]
HERE = Path("mine.json")
WORD = "unavailable_0123456789"
SETTINGS = Settings.model_validate(
    {
        "pipeline": "shop",
        "unavailable_value": WORD,
        "source": {
            "dsn": "host=db.example port=5433 dbname=erp user=dbz password=hunter2",
            "schemas": ("shop", "a.b,c"),
        },
        "connect": {"url": "http://connect:8083", "source_password": "${file:/run/secrets/source.properties:password}"},
    }
)
VARIABLES = {**SETTINGS.variables(), "DELTASYNC_SOURCE_TABLES": "shop[.]orders"}


def text(**config: object) -> str:
    return json.dumps({"name": "mine", "config": {"connector.class": "org.example.Other"} | config})


def changed(key: str, value: str | None) -> str:
    document = json.loads(shipped().read_text())
    document["config"].pop(key, None)
    if value is not None:
        document["config"][key] = value
    return json.dumps(document)


def test_shipped_connector_is_found_and_filled() -> None:
    (connector,) = load([], VARIABLES)
    assert shipped() == ROOT / "connectors" / "source-postgres.json"
    assert connector.name == SETTINGS.connector == "shop-source"
    assert connector.config["database.hostname"] == "db.example"
    assert connector.config["database.port"] == "5433"
    assert connector.config["database.password"] == "${file:/run/secrets/source.properties:password}"
    assert "${DELTASYNC" not in str(connector.config)
    assert "hunter2" not in str(connector.config)


def test_schemas_are_a_pattern_of_exactly_these_names() -> None:
    (connector,) = load([], VARIABLES)
    assert connector.config["table.include.list"] == r"deltasync[.](schema_log|canary|signal),(shop|a\.b\,c)[.].*"


@pytest.mark.parametrize("name", ["DELTASYNC_UNAVAILABLE_VALUE", "DELTASYNC_CONNECT_SOURCE_PASSWORD"])
def test_unset_variable_names_variable_file_and_remedy(name: str) -> None:
    variables = {key: value for key, value in VARIABLES.items() if key != name}
    with pytest.raises(SettingsError) as caught:
        load([], variables)
    assert name in caught.value.what
    assert "source-postgres.json" in caught.value.what
    assert f"Set {name}" in caught.value.remedy


@pytest.mark.parametrize("value", ["${DELTASYNC_TYPO}", "${HOME}", "a${DELTASYNC_PIPELINE:-x}b"])
def test_unknown_variable_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match=r"mine\.json: the variable .* has no value"):
        parse(text(key=value), HERE, VARIABLES)


def test_references_for_connect_stay_as_they_are() -> None:
    references = {"a": "${file:/f:k}", "b": "${secretManager:k}", "c": "x$1y$", "d": "${env:A}-${env:B}"}
    assert parse(text(**references), HERE, VARIABLES).config.items() >= references.items()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"name": "x",\n "config": {\n "a": }}', "mine.json, line 3: this is not JSON"),
        ('{"name": "x", "config": {"a": "1", "a": "2"}}', "a is set twice"),
        ('{"name": "x"}', "a connector is"),
        ('{"name": "x", "config": {}, "tasks": 1}', "a connector is"),
        ("[]", "a connector is"),
        ('{"name": "x", "config": {"a": ["b"]}}', "the value of a is no text or number"),
        ('{"name": "x", "config": {"a": "b"}}', "connector.class is missing"),
    ],
)
def test_bad_files_say_where(content: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(content, HERE, VARIABLES)
    assert says in caught.value.what


def test_values_that_are_no_strings_are_written_as_connect_reads_them() -> None:
    assert parse(text(a=True, b=5, c=1.5), HERE, VARIABLES) == Connector(
        "mine", {"connector.class": "org.example.Other", "a": "true", "b": "5", "c": "1.5"}, HERE
    )


def test_folder_gives_its_files_in_order_and_never_the_same_connector_twice(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(text().replace("mine", "second"))
    (tmp_path / "a.json").write_text(text().replace("mine", "first"))
    assert [connector.name for connector in load([tmp_path], VARIABLES)] == ["first", "second"]
    with pytest.raises(SettingsError, match="stands in"):
        load([tmp_path, tmp_path / "a.json"], VARIABLES)


def test_missing_file_and_empty_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no connector"):
        load([tmp_path], VARIABLES)
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load([tmp_path / "none.json"], VARIABLES)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("database.password", "hunter2"),
        ("database.sslpassword", "hunter2"),
        ("producer.override.sasl.jaas.config", 'org.example.Login required username="u" password="hunter2";'),
        ("value.converter.basic.auth.user.info", "u:hunter2"),
    ],
)
def test_plain_secrets_are_refused_and_not_repeated(key: str, value: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse(text(**{key: value}), HERE, VARIABLES)
    assert key in caught.value.what
    assert "${file:" in caught.value.remedy
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("errors.tolerance", "all"),
        ("errors.max.retries", "-1"),
        ("errors.max.retries", None),
        ("event.converting.failure.handling.mode", "warn"),
        ("event.converting.failure.handling.mode", None),
        ("event.processing.failure.handling.mode", "skip"),
        ("value.converter.replace.null.with.default", None),
        ("key.converter.replace.null.with.default", "true"),
        ("binary.handling.mode", "base64"),
        ("binary.handling.mode", None),
        ("skipped.operations", "t"),
        ("skipped.operations", "c,t"),
        ("skipped.operations", None),
        ("decimal.handling.mode", "precise"),
        ("decimal.handling.mode", "double"),
        ("time.precision.mode", "connect"),
        ("time.precision.mode", None),
        ("interval.handling.mode", None),
        ("include.unknown.datatypes", "false"),
        ("plugin.name", "decoderbufs"),
        ("publication.autocreate.mode", "filtered"),
        ("snapshot.mode", "when_needed"),
        ("offset.mismatch.strategy", "trust_slot"),
        ("slot.drop.on.stop", "true"),
        ("value.converter", "io.confluent.connect.avro.AvroConverter"),
        ("producer.override.acks", "1"),
        ("producer.override.max.in.flight.requests.per.connection", "5"),
        ("topic.creation.default.cleanup.policy", "compact"),
        ("unavailable.value.placeholder", None),
        ("unavailable.value.placeholder", "__debezium_unavailable_value"),
    ],
)
def test_values_that_lose_changes_are_refused_with_the_reason(key: str, value: str | None) -> None:
    with pytest.raises(RefusedError) as caught:
        parse(changed(key, value), HERE, VARIABLES)
    assert f"{key} = " in caught.value.what


def test_all_refusals_are_told_at_once() -> None:
    with pytest.raises(RefusedError) as caught:
        parse(changed("errors.tolerance", "all").replace('"hex"', '"base64"'), HERE, VARIABLES)
    assert "errors.tolerance = all" in caught.value.what
    assert "binary.handling.mode = base64" in caught.value.what


def test_both_forms_of_json_and_a_bootstrapped_slot_are_allowed() -> None:
    parse(changed("value.converter.schemas.enable", "true"), HERE, VARIABLES)
    parse(changed("snapshot.mode", "no_data"), HERE, VARIABLES)


def test_each_shipped_setting_and_each_rule_is_explained() -> None:
    page = (ROOT / "connectors" / "README.md").read_text()
    shipped_keys = json.loads(shipped().read_text())["config"]
    raw_keys = json.loads((raw_text_folder() / "connector.json").read_text())
    rules = [rule.key for rule in (*RULES, *RAW_TEXT_RULES, *KEYLESS_RULES, *RUN_RULES)]
    missing = [key for key in {*shipped_keys, *raw_keys, *rules} if f"`{key}`" not in page]
    assert not missing


def test_each_variable_is_explained() -> None:
    page = (ROOT / "connectors" / "README.md").read_text()
    assert not [name for name in VARIABLES if f"`${{{name}}}`" not in page]


WITH_RAW_TEXT = {**VARIABLES, "DELTASYNC_CONNECT_RAW_TEXT": "true"}


def test_the_shipped_connector_carries_the_raw_text_converter_where_it_is_set() -> None:
    (without,), (connector,) = load([], VARIABLES), load([], WITH_RAW_TEXT)
    assert connector.config["raw.type"] == "org.deltasync.connect.RawText"
    assert connector.config["raw.placeholder"] == WORD
    assert without.config.items() < connector.config.items()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("converters", "other"),
        ("raw.type", None),
        ("raw.types", "vector"),
        ("raw.placeholder", "another_word_0123"),
        ("transforms", None),
        ("transforms.table.type", "org.example.Other"),
        ("column.propagate.source.type", None),
        ("header.converter", "org.apache.kafka.connect.json.JsonConverter"),
    ],
)
def test_a_connector_that_lacks_a_part_of_raw_text_is_refused(tmp_path: Path, key: str, value: str | None) -> None:
    (connector,) = load([], WITH_RAW_TEXT)
    config = {**connector.config, key: value}
    document = {"name": "mine", "config": {name: text for name, text in config.items() if text is not None}}
    with pytest.raises(RefusedError) as caught:
        parse(json.dumps(document), tmp_path, WITH_RAW_TEXT)
    assert f"{key} = " in caught.value.what


def test_raw_text_is_refused_where_decoding_does_not_expect_it(tmp_path: Path) -> None:
    (connector,) = load([], WITH_RAW_TEXT)
    with pytest.raises(RefusedError, match=r"raw\.type = org\.deltasync.* connect\.raw_text is false"):
        parse(json.dumps({"name": "mine", "config": dict(connector.config)}), tmp_path, VARIABLES)


def test_other_converters_and_transforms_may_stand_beside_those_of_raw_text(tmp_path: Path) -> None:
    (connector,) = load([], WITH_RAW_TEXT)
    config = {**connector.config, "converters": "mine, raw", "transforms": "table,route"}
    parse(json.dumps({"name": "mine", "config": config}), tmp_path, WITH_RAW_TEXT)


def test_what_is_generated_is_carried_unless_the_file_says_it_itself(tmp_path: Path) -> None:
    """A list and what belongs to it are one; connectors of other classes have nothing of it."""
    generated = {
        "column.exclude.list": "a",
        "snapshot.select.statement.overrides": "s.t",
        "snapshot.select.statement.overrides.s.t": "SELECT 1",
    }
    (shipped,) = load([], VARIABLES, generated)
    assert generated.items() <= shipped.config.items()
    config = {key: value for key, value in shipped.config.items() if key not in generated}
    config["snapshot.select.statement.overrides"] = "s.mine"
    own = {"name": "own", "config": config}
    other = {"name": "other", "config": {"connector.class": "org.example.Sink"}}
    (tmp_path / "1.json").write_text(json.dumps(own))
    (tmp_path / "2.json").write_text(json.dumps(other))
    mine, sink = load([tmp_path], VARIABLES, generated)
    assert mine.config == {**config, "column.exclude.list": "a"}
    assert sink.config == {"connector.class": "org.example.Sink"}


WHOLE = {**VARIABLES, "DELTASYNC_CONSISTENCY": "transaction"}


def test_whole_transactions_need_to_be_told() -> None:
    """The shipped connector tells them where the setting asks for it, and one that does not is refused then."""
    (without,), (connector,) = load([], VARIABLES), load([], WHOLE)

    assert connector.config["provide.transaction.metadata"] == "true"
    assert connector.config["topic.creation.transaction.include"].endswith("[.]transaction")
    for config in (without.config, {**connector.config, "topic.transaction": "other"}):
        document = json.dumps({"name": "mine", "config": dict(config)})
        with pytest.raises(RefusedError, match=r"transaction.*setting consistency"):
            parse(document, Path("mine.json"), WHOLE)


def test_whole_transactions_need_to_know_the_run_of_the_connector() -> None:
    config = {**load([], WHOLE)[0].config, "extended.headers.enabled": "false"}

    with pytest.raises(RefusedError, match=r"extended.headers.enabled = false"):
        parse(json.dumps({"name": "mine", "config": config}), Path("mine.json"), WHOLE)


@pytest.mark.parametrize(("key", "value"), [("provide.transaction.metadata", "false"), ("snapshot.max.threads", "2")])
def test_where_tables_without_a_key_are_captured_records_must_tell_their_numbers(key: str, value: str) -> None:
    keyless = {**VARIABLES, "DELTASYNC_SOURCE_KEYLESS": "true"}
    assert "provide.transaction.metadata" not in load([], VARIABLES)[0].config
    assert load([], keyless)[0].config["provide.transaction.metadata"] == "true"
    parse(changed(key, value), HERE, VARIABLES)
    with pytest.raises(RefusedError, match=rf"{key} = {value}"):
        parse(changed(key, value), HERE, keyless)
