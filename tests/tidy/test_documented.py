"""Every command, every setting and every metric is told of in a page, or a test fails."""

from __future__ import annotations

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


@pytest.mark.parametrize("family", list(Metrics().registry.collect()), ids=lambda family: family.name)
def test_every_metric_is_documented(family: Metric) -> None:
    name = f"{family.name}_total" if family.type == "counter" else family.name

    assert f"`{name}`" in TEXT
