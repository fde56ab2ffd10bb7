"""What every command prints alike: errors with a remedy, JSON, tables."""

from __future__ import annotations

import msgspec
from rich.console import Console

from deltasync.errors import DeltasyncError

console = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


def failure(error: DeltasyncError) -> None:
    """Print what is wrong and what to do, on standard error."""
    stderr.print("[bold red]error[/]: ", end="")
    stderr.print(error.what, markup=False, soft_wrap=True)
    if error.remedy:
        stderr.print("[bold]do[/]: ", end="")
        stderr.print(error.remedy, markup=False, soft_wrap=True)


def json(value: object) -> None:
    """Print a value as indented JSON on standard output (msgspec structs and dataclasses included)."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    console.print(text, markup=False, soft_wrap=True)
