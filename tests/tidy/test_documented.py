"""Every command, every setting and every metric is told of in a page, or a test fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer.main
from prometheus_client import Metric
from pydantic import BaseModel
from typer.core import TyperGroup

from deltasync.cli.main import app
from deltasync.environment import PREFIX
from deltasync.monitor.metrics import Metrics
from deltasync.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("[!.]*/README.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def _commands() -> dict[str, str]:
    """What each command says of itself, by its words."""
    root = typer.main.get_command(app)
    context = typer.Context(root)

    def walk(command: Any, path: str) -> dict[str, str]:  # noqa: ANN401 - typer does not name its type
        if not isinstance(command, TyperGroup):
            return {path: command.help or ""}
        found: dict[str, str] = {}
        for name in command.list_commands(context):
            found |= walk(command.get_command(context, name), f"{path} {name}")
        return found

    return walk(root, "deltasync")


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


@pytest.mark.parametrize(("command", "help_"), _commands().items())
def test_every_command_explains_itself(command: str, help_: str) -> None:
    """With an example, and what its exit codes mean."""
    assert "Exit code 0" in help_, command
    assert "Example" in help_, command


@pytest.mark.parametrize("family", list(Metrics().registry.collect()), ids=lambda family: family.name)
def test_every_metric_is_documented(family: Metric) -> None:
    name = f"{family.name}_total" if family.type == "counter" else family.name

    assert f"`{name}`" in TEXT
