"""Why settings are not valid: each error names the place as its user wrote it, and says what is expected there.

No error shows a value: it may be a secret. What is expected is told by the settings' JSON schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from deltasync.environment import PREFIX, variable
from deltasync.errors import SettingsError

_NAME_IS_WRONG = "[key]"  # pydantic's word at the end of a place whose name is wrong, not what stands under it
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list of texts in quotes",
    "object": "names with values",
    "string": "a text in quotes",
}
_BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to"}

Schema = Mapping[str, Any]


class Written(NamedTuple):
    """All that was set: the file's path and content, and the variables by their names in capitals."""

    file: Path
    content: Mapping[str, Any]
    environment: Mapping[str, str]


def refused(detail: Mapping[str, Any], schema: Schema, written: Written) -> SettingsError:
    """The error for what pydantic found (one of its `ErrorDetails`) in the settings of this JSON schema."""
    place = [part for part in detail["loc"] if isinstance(part, str)]
    if not place:
        both = " and ".join(_told(name.split("."), written) for name in detail["ctx"]["names"])
        return SettingsError(f"{both} do not go together: {detail['msg']}.", remedy=detail["ctx"]["remedy"])
    if place[-1] == _NAME_IS_WRONG:
        return _no_table(place[:-1], written)
    if detail["type"] == "extra_forbidden":
        return _unknown(place, schema, written)
    nodes = _nodes(schema, place)
    wanted = expected(nodes[-1], place[0])
    return SettingsError(
        f"{_told(place[: len(nodes) - 1], written)} has a value that it does not take.", remedy=f"Give it {wanted}."
    )


def unknown_variable(name: str, schema: Schema) -> SettingsError:
    """The error for a variable of the environment that sets nothing."""
    what = f"The environment variable {name} is not a setting."
    known = {variable(one): node for one, node in settings_of(schema)}
    for holder, node in known.items():
        if name.startswith(f"{holder}_") and node.get("type") == "object":
            return SettingsError(what, remedy=f"Set them in the file, or all at once: {holder}={_in_shell(node)}.")
    near = nearest(name.removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in known])
    if near:
        return SettingsError(what, remedy=f"Did you mean {PREFIX}{near}? Correct or unset it.")
    return SettingsError(what, remedy=f"Unset it. Known are {', '.join(known)}.")


def not_json(name: str, node: Schema) -> SettingsError:
    """The error for a variable that holds a list or a table in another form than JSON."""
    what = f"The environment variable {name} is not JSON."
    return SettingsError(what, remedy=f"Write it as {name}={_in_shell(node)}.")


def settings_of(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Every setting there is, as `section.key`, and its JSON schema."""
    for field, node in schema["properties"].items():
        section = _resolved(schema, node)
        if "properties" in section:
            yield from ((f"{field}.{key}", inner) for key, inner in section["properties"].items())
        else:
            yield field, node


def expected(node: Schema, section: str = "") -> str:
    """What a setting takes, in plain words."""
    if "properties" in node:
        return f"a section of its own, [{section}], with {_listed(node['properties'])}"
    example = f", such as {json.dumps(node['examples'][0])}" if "examples" in node else ""
    choices = [expected(one) for one in node.get("anyOf", ()) if one["type"] != "null"]
    if "description" in node:
        words = node["description"]
    elif "enum" in node:
        words = " or ".join(json.dumps(one) for one in node["enum"])
    else:
        words = " or ".join(choices) or _KINDS[node["type"]]
    bounds = (f" {word} {node[key]:.15g}" for key, word in _BOUNDS.items() if key in node)
    return f"{words}{''.join(bounds)}{example}"


def _unknown(place: list[str], schema: Schema, written: Written) -> SettingsError:
    what = f"{_told(place, written)} is not a setting."
    key = place[-1]
    homes = [name.rpartition(".")[0] for name, _ in settings_of(schema) if name.rpartition(".")[2] == key]
    if homes:
        told = " or ".join(f"in [{section}]" if section else "above the first [section]" for section in homes)
        return SettingsError(what, remedy=f"`{key}` belongs {told}.")
    known = _nodes(schema, place[:-1])[-1]["properties"]
    near = nearest(key, known)
    return SettingsError(what, remedy=f"Did you mean {_listed([near])}?" if near else f"Known there: {_listed(known)}.")


def _no_table(place: list[str], written: Written) -> SettingsError:
    """A name that is not schema.table. In TOML it needs quotes, or its dot makes a section of a section."""
    inside = _value(written.content, place)
    tables = [f"{place[-1]}.{key}" for key, value in inside.items() if isinstance(value, dict)] if inside else []
    name = json.dumps((tables or ["schema.table"])[0])
    remedy = f"Write {name} in JSON." if inside is None else f"Write schema and table in quotes: [{place[0]}.{name}]."
    return SettingsError(f"{_told(place, written)} names no table.", remedy=remedy)


def _told(place: list[str], written: Written) -> str:
    """Where the user wrote it: the variable, or section and key of the file."""
    for depth in (1, 2):
        name, inner = variable(".".join(place[:depth])), place[depth:]
        text = written.environment.get(name)
        if text is not None and (not inner or _value(json.loads(text), inner) is not None):
            return " in ".join([*(f"`{key}`" for key in reversed(inner)), name])
    path = [key if _BARE.fullmatch(key) else json.dumps(key) for key in place]
    if isinstance(_value(written.content, place), dict):
        return f"[{'.'.join(path)}] of {written.file}"
    section = f" in [{'.'.join(path[:-1])}]" if path[1:] else ""
    return f"`{path[-1]}`{section} of {written.file}"


def _value(content: Any, place: Iterable[str]) -> Any:  # noqa: ANN401 - what TOML or JSON holds
    for key in place:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _nodes(schema: Schema, place: Iterable[str]) -> list[Schema]:
    """The JSON schemas from the whole down to a place, or to a choice on the way: pydantic goes on with its kinds."""
    nodes = [schema]
    for key in place:
        inner = nodes[-1].get("properties", {}).get(key) or nodes[-1].get("additionalProperties")
        if not isinstance(inner, Mapping):
            break
        nodes.append(_resolved(schema, inner))
    return nodes


def _resolved(schema: Schema, node: Schema) -> Schema:
    name = node.get("$ref", "").rpartition("/")[2]
    return schema["$defs"][name] if name else node


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that may have been meant, if one is near."""
    return next(iter(get_close_matches(word, known, n=1, cutoff=0.7)), None)


def _listed(known: Iterable[str]) -> str:
    return ", ".join(f"`{one}`" for one in known)


def _in_shell(node: Schema) -> str:
    return f"'{json.dumps(node['examples'][0])}'"
