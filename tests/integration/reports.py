"""What a test expects of a report of `deltasync check`."""

from __future__ import annotations

from collections.abc import Sequence

from deltasync.check.examine import Report
from deltasync.settings import Settings

# What is told, its gravity, and a piece of the remedy.
Expected = tuple[str, str, str]


def expect(report: Report, expected: Sequence[Expected]) -> None:
    """Each is named with its gravity and its remedy."""
    told = "\n".join(f"{f.gravity} {f.what} | {f.remedy}" for f in report.findings)
    for what, gravity, remedy in expected:
        found = [f for f in report.findings if what in f.what]
        assert found, f"not told: {what}\n{told}"
        assert any(f.gravity == gravity and remedy in f.remedy for f in found), f"{what}: {gravity}, {remedy}\n{told}"


def only(settings: Settings, *sections: str) -> Settings:
    """The settings with the addresses of these servers alone."""
    none = {
        "source": settings.source.model_copy(update={"dsn": None, "admin_dsn": None}),
        "replica": settings.replica.model_copy(update={"dsn": None, "admin_dsn": None}),
        "kafka": settings.kafka.model_copy(update={"bootstrap": None}),
        "connect": settings.connect.model_copy(update={"url": None}),
    }
    return settings.model_copy(update={name: one for name, one in none.items() if name not in sections})
