"""Every command, every setting and every metric is told of in a page, or a test fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer.main
from prometheus_client import Metric
from pydantic import BaseModel

from deltasync.cli.main import app
from deltasync.environment import PREFIX
from deltasync.monitor.metrics import Metrics
from deltasync.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("[!.]*/README.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def _commands() -> list[str]:
    def walk(command: object, path: str) -> list[str]:
        children = getattr(command, "commands", {})
        return [leaf for name, child in children.items() for leaf in walk(child, f"{path} {name}")] or [path]

    return walk(typer.main.get_command(app), "deltasync")


def _settings() -> list[str]:
    names = []
    for field, info in Settings.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            names += [f"{PREFIX}{field}_{key}".upper() for key in section.model_fields]
        else:
            names.append(PREFIX + field.upper())
    return names


@pytest.mark.parametrize("command", _commands())
def test_every_command_is_documented(command: str) -> None:
    assert command in TEXT


@pytest.mark.parametrize("variable", _settings())
def test_every_setting_is_documented(variable: str) -> None:
    assert f"`{variable}`" in TEXT


@pytest.mark.parametrize("file", sorted(ROOT.glob("connectors/**/*.json")), ids=lambda file: file.parent.name)
def test_every_value_of_a_connector_is_documented(file: Path) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    page = (ROOT / "connectors" / "README.md").read_text(encoding="utf-8")
    assert [key for key in found.get("config", found) if f"`{key}`" not in page] == []


@pytest.mark.parametrize("command", _commands())
def test_every_command_explains_itself(command: str) -> None:
    """With an example, and what its exit codes mean."""
    found = typer.main.get_command(app)
    for name in command.split()[1:]:
        found = getattr(found, "commands")[name]  # noqa: B009 - a group's
    assert "Exit code 0" in (found.help or "")
    assert "Example" in (found.help or "")


@pytest.mark.parametrize("family", list(Metrics().registry.collect()), ids=lambda family: family.name)
def test_every_metric_is_documented(family: Metric) -> None:
    name = f"{family.name}_total" if family.type == "counter" else family.name

    assert f"`{name}`" in TEXT
