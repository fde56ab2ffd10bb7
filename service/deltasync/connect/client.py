"""Kafka Connect's REST interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import stamina

from deltasync.connect.masking import mask
from deltasync.connect.status import Status
from deltasync.errors import DeltasyncError, SettingsError, UnreachableError

# Connect gives up on its own requests after 90 s; only validation (it asks the source) takes more than a moment.
TIMEOUT_S = 15.0
VALIDATE_TIMEOUT_S = 95.0
# A rebalance takes seconds, a worker's start about ten.
RETRY_S_MAX = 30.0


T = TypeVar("T")


class NoConnectorError(DeltasyncError):
    """Connect does not know a connector of this name."""


class Problem(NamedTuple):
    """What Connect finds wrong with one setting."""

    key: str
    message: str


class Offset(msgspec.Struct, frozen=True):
    """A source partition's stored offset, as the connector wrote it (`None`: reset)."""

    partition: dict[str, object]
    offset: dict[str, object] | None = None


def is_streaming(offsets: Sequence[Offset]) -> bool:
    """True where the initial snapshot is complete, and at least one record behind it was stored."""
    stored = [found.offset for found in offsets if found.offset]
    return bool(stored) and not any("snapshot" in offset for offset in stored)


class Plugin(msgspec.Struct, frozen=True):
    """A connector's class that Connect's workers have, and its version."""

    class_: str = msgspec.field(name="class")
    version: str = ""


class _Offsets(msgspec.Struct):
    offsets: tuple[Offset, ...] = ()


class _Listed(msgspec.Struct):
    status: Status


class _Value(msgspec.Struct):
    name: str
    errors: tuple[str, ...] = ()


class _Setting(msgspec.Struct):
    value: _Value


class _Validation(msgspec.Struct):
    configs: tuple[_Setting, ...] = ()


class _Refusal(msgspec.Struct):
    """Only Connect's own answers carry `error_code`; the web server before it says `status`."""

    error_code: int
    message: str


class _NotYetError(Exception):
    """Connect is rebalancing or still starting; the same request works in a moment."""


class ConnectClient:
    """A worker (any one of the cluster) by its URL; user and password may stand in it.

    Every method blocks until Connect has answered, and repeats what a rebalance or a worker's start turned away
    for at most `retry_s_max`. All raise UnreachableError where there is no answer, NoConnectorError where the
    connector does not exist, and DeltasyncError with Connect's own words (secrets masked) where it refuses.
    """

    def __init__(self, url: str, *, retry_s_max: float = RETRY_S_MAX) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise _wrong_url(str(error)) from None
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise _wrong_url("it must begin with http:// or https:// and name a host")
        self.url = str(parsed.copy_with(userinfo=b""))
        self._retry_s_max = retry_s_max
        self._http = httpx.Client(base_url=parsed, timeout=TIMEOUT_S, headers={"Accept": "application/json"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def statuses(self) -> list[Status]:
        """All connectors of this Connect, by name."""
        listed = self._decode(self._send("GET", "/connectors?expand=status"), dict[str, _Listed])
        return [listed[name].status for name in sorted(listed)]

    def plugins(self) -> list[Plugin]:
        """The connectors that are installed on the worker that answers."""
        return self._decode(self._send("GET", "/connector-plugins"), list[Plugin])

    def status(self, name: str) -> Status:
        """For a moment after its creation a connector has none: NoConnectorError."""
        return self._decode(self._send("GET", f"{_path(name)}/status"), Status)

    def config(self, name: str) -> dict[str, str]:
        """The settings as they were put: references to secrets are not resolved."""
        return self._decode(self._send("GET", f"{_path(name)}/config"), dict[str, str])

    def put(self, name: str, config: Mapping[str, str]) -> None:
        """Create the connector, or replace all of its settings, which restarts it. Idempotent."""
        self._send("PUT", f"{_path(name)}/config", dict(config), timeout_s=VALIDATE_TIMEOUT_S)

    def create_stopped(self, name: str, config: Mapping[str, str]) -> None:
        """Create the connector, which does not begin before `resume`. DeltasyncError where there is one."""
        body = {"name": name, "config": dict(config), "initial_state": "STOPPED"}
        self._send("POST", "/connectors", body, timeout_s=VALIDATE_TIMEOUT_S)

    def validate(self, name: str, config: Mapping[str, str]) -> list[Problem]:
        """What Connect and the connector would refuse; Debezium also tries to reach the source. Changes nothing."""
        plugin = quote(config.get("connector.class", ""), safe="")
        path = f"/connector-plugins/{plugin}/config/validate"
        answer = self._send("PUT", path, {**config, "name": name}, timeout_s=VALIDATE_TIMEOUT_S)
        settings = (setting.value for setting in self._decode(answer, _Validation).configs)
        return [Problem(value.name, mask(message)) for value in settings for message in value.errors]

    def delete(self, name: str) -> None:
        """Delete the connector; its stored offsets and its slot stay."""
        self._send("DELETE", _path(name))

    def pause(self, name: str) -> None:
        """Stop reading, keep the tasks. Takes effect a moment after."""
        self._send("PUT", f"{_path(name)}/pause")

    def resume(self, name: str) -> None:
        """Go on after pause or stop. Takes effect a moment after."""
        self._send("PUT", f"{_path(name)}/resume")

    def stop(self, name: str) -> None:
        """Stop reading and give the tasks up. Takes effect a moment after."""
        self._send("PUT", f"{_path(name)}/stop")

    def restart(self, name: str, *, only_failed: bool = True) -> None:
        """Restart the connector and its tasks, or what of them has failed. Takes effect a moment after."""
        self._send("POST", f"{_path(name)}/restart?includeTasks=true&onlyFailed={str(only_failed).lower()}")

    def offsets(self, name: str) -> tuple[Offset, ...]:
        """The stored offsets; empty before the first record was flushed."""
        return self._decode(self._send("GET", f"{_path(name)}/offsets"), _Offsets).offsets

    def reset_offsets(self, name: str) -> None:
        """Forget the stored offsets. The connector must have come to a stop: else DeltasyncError."""
        self._send("DELETE", f"{_path(name)}/offsets")

    def _send(
        self, method: str, path: str, body: Mapping[str, object] | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> bytes:
        try:
            for attempt in stamina.retry_context(
                on=_NotYetError,
                attempts=None,
                timeout=self._retry_s_max,
                wait_initial=0.2,
                wait_max=2.0,
                wait_jitter=0.2,
            ):
                with attempt:
                    return self._send_once(method, path, body, timeout_s)
        except _NotYetError as error:
            raise UnreachableError(
                f"Kafka Connect at {self.url} does not take requests for {self._retry_s_max:g} s now: {error}.",
                remedy="Wait until its workers have started and agreed, or read their log.",
            ) from None
        raise AssertionError  # the loop above returns or raises

    def _send_once(self, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float) -> bytes:
        try:
            response = self._http.request(method, path, json=body, timeout=httpx.Timeout(timeout_s, connect=5.0))
        except httpx.TransportError as error:
            raise UnreachableError(
                f"Kafka Connect at {self.url} did not answer ({type(error).__name__}: {mask(str(error))}).",
                remedy="Start it, or correct DELTASYNC_CONNECT_URL (`url` in [connect] of deltasync.toml).",
            ) from None
        if response.is_success:
            return response.content
        raise self._refusal(response, f"{method} {path}")

    def _refusal(self, response: httpx.Response, request: str) -> Exception:
        """What a status code means: come again, unreachable, no such connector, or no."""
        message = _message(response)
        match response.status_code:
            case httpx.codes.CONFLICT | httpx.codes.SERVICE_UNAVAILABLE:
                return _NotYetError(message or "it is rebalancing")
            case httpx.codes.NOT_FOUND if message is None:  # the answer of the web server, before Connect has started
                return _NotYetError("there is no Kafka Connect behind this address, or it is still starting")
            case httpx.codes.NOT_FOUND:
                return NoConnectorError(
                    f"Kafka Connect at {self.url}: {message}.", remedy="`deltasync connectors list` names those it has."
                )
            case httpx.codes.UNAUTHORIZED | httpx.codes.FORBIDDEN:
                remedy = "Put the user and the password into DELTASYNC_CONNECT_URL (https://user:password@host)."
            case code if code >= httpx.codes.INTERNAL_SERVER_ERROR and "a rebalance is expected" in (message or ""):
                return _NotYetError(message)
            case code if code >= httpx.codes.INTERNAL_SERVER_ERROR and "timed out" in (message or ""):
                return UnreachableError(
                    f"Kafka Connect at {self.url}: {message}.", remedy="Read the log of its workers, and ask again."
                )
            case _ if "Failed to find any class" in (message or ""):
                message = "a plug-in that the connector names is not installed"
                remedy = "Install Debezium's PostgreSQL connector in plugin.path of every worker, and restart them."
            case _:
                remedy = "Correct what it names; nothing was changed."
        return DeltasyncError(
            f"Kafka Connect at {self.url} refused {request} ({response.status_code}): {message or 'no reason given'}.",
            remedy=remedy,
        )

    def _decode(self, answer: bytes, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(answer, type=shape)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise UnreachableError(
                f"What answers at {self.url} is not Kafka Connect.", remedy="Correct DELTASYNC_CONNECT_URL."
            ) from None


def _path(name: str) -> str:
    return f"/connectors/{quote(name, safe='')}"


def _message(response: httpx.Response) -> str | None:
    """Connect's own words on one line, or None where the answer is not Connect's."""
    try:
        message = msgspec.json.decode(response.content, type=_Refusal).message
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return mask(" ".join(message.split())).removesuffix(".")


def _wrong_url(why: str) -> SettingsError:
    what = f"DELTASYNC_CONNECT_URL (`url` in [connect]) is not an address: {mask(why)}."
    return SettingsError(what, remedy="Write http://HOST:8083.")
