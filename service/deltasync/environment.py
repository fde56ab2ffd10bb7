"""The environment, which nothing else reads: the variables of the settings, their file, and the user's folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PREFIX = "DELTASYNC_"
FILE = "deltasync.toml"
# Not settings of the service: where their file is, and what tests read.
_CONFIG = PREFIX + "CONFIG"
_OF_TESTS = PREFIX + "TEST_"


def variable(name: str) -> str:
    """The variable that sets `section.key`."""
    return PREFIX + name.replace(".", "_").upper()


def is_set(name: str) -> bool:
    """Whether there is a variable of this name."""
    return name in os.environ


def given() -> dict[str, str]:
    """The variables that are meant to be settings, by their names in capitals: small ones count, too."""
    ours = {name.upper(): value for name, value in os.environ.items() if name.upper().startswith(PREFIX)}
    return {name: value for name, value in ours.items() if name != _CONFIG and not name.startswith(_OF_TESTS)}


def file() -> Path:
    """Where the settings' file is, or would be."""
    return Path(os.environ.get(_CONFIG) or FILE)


def file_is_named() -> bool:
    """Whether the environment says where the file is, so that it has to be there."""
    return bool(os.environ.get(_CONFIG))


def place(name: str) -> str:
    """Where the setting `section.key` is set: its variable, or its place in the file."""
    section, _, key = name.rpartition(".")
    return variable(name) if is_set(variable(name)) else f"`{key}` in [{section}] of {file()}"


def cache_folder() -> Path:
    """Where downloads of the embedded stack are kept, for all projects of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deltasync"


def child_environment(own: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that is to run with these `DELTASYNC_*` and no others."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)} | dict(own)


def settings_among(variables: Mapping[str, str]) -> dict[str, str]:
    """The `DELTASYNC_*` among a process's variables."""
    return {name: value for name, value in variables.items() if name.startswith(PREFIX)}
