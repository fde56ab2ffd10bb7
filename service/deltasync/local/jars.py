"""The jars of Kafka, Connect and Debezium: fetched once, checked on every start.

`jars.toml` pins each jar by its Maven coordinate and SHA-256. A jar enters the cache by a rename, after
its checksum was found right, so that whatever interrupts a download leaves nothing that is later trusted.
The jar of ours (`raw_text`) is compiled once and lies beside Debezium's, in a plugin folder of these sources'
own: two checkouts that share the cache do not take each other's away.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from jgo.config import GlobalSettings
from jgo.maven import MavenContext
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deltasync.environment import cache_folder
from deltasync.errors import PartError
from deltasync.local import raw_text

# Most of a download is waiting for small files; more connections than this gained nothing.
_DOWNLOADS = 12
_TIMEOUT_S = 60


class Jars(NamedTuple):
    """`kafka` is a folder for the class path (`kafka/*`), `plugins` one for Connect's `plugin.path`."""

    kafka: Path
    plugins: Path


class _Pin(NamedTuple):
    coordinate: str
    sha256: str
    path: Path

    @property
    def artifact(self) -> str:
        return self.coordinate.split(":")[1]


class _Cache(NamedTuple):
    home: Path
    jars: Jars
    pins: list[_Pin]


def ensure() -> Jars:
    """All jars, in the cache and checked; fetched with a progress bar where they are missing, ours compiled.

    Blocks: 0.1 s where all is there (no network is used), else the time of a 64 MB download and 2 s.
    Raises PartError for a jar that cannot be fetched or is not the one that was pinned.
    """
    cache = _cache()
    ours = cache.jars.plugins / "debezium" / raw_text.file_name()
    kept = {ours, *(pin.path for pin in cache.pins)}
    for folder in {path.parent for path in kept}:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_strangers(folder, kept)
    _fetch_missing(cache.pins, cache.home)
    if not ours.exists():
        _build(ours, cache.pins)
    return cache.jars


def raw_text_jar(folder: Path) -> Path:
    """The jar of ours, put into this folder; fetches only what compiling it takes. Blocks and raises as `ensure`."""
    cache = _cache()
    needed = [pin for pin in cache.pins if pin.artifact in raw_text.CLASS_PATH | {raw_text.COMPILER}]
    for pin in needed:
        pin.path.parent.mkdir(parents=True, exist_ok=True)
    _fetch_missing(needed, cache.home)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=cache.home) as work:
        built = Path(work) / raw_text.file_name()
        _build(built, needed)
        return Path(shutil.copy(built, folder / built.name))


def _cache() -> _Cache:
    text = pins()
    home = cache_folder() / "jars" / hashlib.sha256(text.encode()).hexdigest()[:12]
    jars = Jars(home / "kafka", home / Path(raw_text.file_name()).stem)
    folders = {"kafka": jars.kafka, "debezium": jars.plugins / "debezium", "compiler": home / "compiler"}
    found = [
        _Pin(coordinate, sha256, folders[group] / _file_name(coordinate))
        for group, coordinates in tomllib.loads(text).items()
        for coordinate, sha256 in coordinates.items()
    ]
    return _Cache(home, jars, found)


def _build(target: Path, pins: list[_Pin]) -> None:
    (compiler,) = (pin.path for pin in pins if pin.artifact == raw_text.COMPILER)
    raw_text.build(target, compiler, [pin.path for pin in pins if pin.artifact in raw_text.CLASS_PATH])


def _fetch_missing(wanted: list[_Pin], home: Path) -> None:
    missing = [pin for pin in wanted if not _is_right(pin.path, pin.sha256)]
    if missing:
        _fetch_all(missing, home)


def pins() -> str:
    """The text of `jars.toml`."""
    return resources.files(__package__).joinpath("jars.toml").read_text()


def _file_name(coordinate: str) -> str:
    _, artifact, version = coordinate.split(":")
    return f"{artifact}-{version}.jar"


def _is_right(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _remove_strangers(folder: Path, kept: set[Path]) -> None:
    # Java loads every jar of these folders, so they hold the pinned ones, ours, and no other.
    for path in folder.glob("*.jar"):
        if path not in kept:
            path.unlink()


def _fetch_all(pins: list[_Pin], home: Path) -> None:
    logging.getLogger("jgo").setLevel(logging.ERROR)
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("Fetching jars"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    if not console.is_terminal:
        what = f"Fetching {len(pins)} jars of Kafka, Connect and Debezium into {home} (once)."
        console.print(what, markup=False, soft_wrap=True)
    with (
        tempfile.TemporaryDirectory(prefix=".fetch-", dir=home) as staging,
        progress,
        ThreadPoolExecutor(_DOWNLOADS) as pool,
    ):
        maven = MavenContext(
            repo_cache=Path(staging), remote_repos=GlobalSettings.load().repositories or None, timeout=_TIMEOUT_S
        )
        task = progress.add_task("", total=len(pins))
        waiting = [pool.submit(_fetch, pin, maven) for pin in pins]
        try:
            for done in as_completed(waiting):
                done.result()
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch(pin: _Pin, maven: MavenContext) -> None:
    group, artifact, version = pin.coordinate.split(":")
    try:
        fetched = maven.project(group, artifact).at_version(version).artifact().resolve()
    except (OSError, RuntimeError) as error:
        raise PartError(
            f"The jar {pin.coordinate} could not be fetched: {type(error).__name__}.",
            remedy="Check the network (a Maven mirror is set in ~/.config/jgo.conf, section [repositories]) "
            "and run the command again: it goes on with what is missing.",
        ) from error
    if not _is_right(fetched, pin.sha256):
        raise PartError(
            f"The jar {pin.coordinate} that was fetched is not the one that this version was tested with: "
            "its SHA-256 differs.",
            remedy="Check the Maven mirror or proxy that delivered it, and run the command again.",
        )
    fetched.replace(pin.path)
