"""What one sidecar is told once, at its start: flags over `MESHDP_*` variables over defaults, frozen from then on.

In:     parsed flags and the environment.
Out:    `Settings`, and the JSON document the engine reads (`Engine.__new__`'s argument).
Fails:  with `SettingsError` naming the flag or the variable, what it held and what is expected.
"""

from __future__ import annotations

from typing import NamedTuple

from meshdp import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "MESHDP_"


class SettingsError(ValueError):
    """A flag or a variable that cannot be used."""


class Settings(NamedTuple):
    """Everything a sidecar does not learn from its configuration."""

    workload: str
    feed: str | None = None
    directory: str | None = None
    credentials: str | None = None
    identity: str | None = None
    concurrency: int = 1
    outbound: str = "0.0.0.0:15001"
    inbound: str = "0.0.0.0:15006"
    admin: str = "127.0.0.1:15000"
    status: str = "0.0.0.0:15020"
    readiness: str = "0.0.0.0:15021"
    metrics: str = "0.0.0.0:15090"
    inbound_source: str = "127.0.0.6"
    access_log: str = "stdout"
    drain_s: float = 5.0
    uid: int | None = None
    post_quantum: bool = True
    single_instance: bool = True

    def for_engine(self) -> bytes:
        """Encode what the engine needs; nothing secret is in it."""
        from json import dumps

        engine = {name: getattr(self, name) for name in ENGINE_FIELDS}
        return dumps(engine | {"version": __version__}).encode()


# What the data plane reads; the rest steers the process around it.
ENGINE_FIELDS = (
    "workload",
    "concurrency",
    "outbound",
    "inbound",
    "admin",
    "status",
    "readiness",
    "metrics",
    "inbound_source",
    "access_log",
    "feed",
    "identity",
    "post_quantum",
    "single_instance",
)

ADDRESSES = ("outbound", "inbound", "admin", "status", "readiness", "metrics")


def read(flags: Mapping[str, object], environment: Mapping[str, str]) -> Settings:
    """Merge flags that were given (not None) over variables over defaults, and check each value."""
    chosen: dict[str, object] = {}
    for name in Settings._fields:
        flag = flags.get(name)
        variable = environment.get(PREFIX + name.upper())
        if flag is not None:
            chosen[name] = flag
        elif variable is not None:
            chosen[name] = _convert(name, variable)
    if "workload" not in chosen:
        raise SettingsError("a sidecar serves one workload: name it with --workload NAMESPACE/NAME")
    settings = Settings(**chosen)  # type: ignore[arg-type]
    _check(settings)
    return settings


def _convert(name: str, text: str) -> object:
    """Turn a variable's text into the type of its field."""
    default = Settings._field_defaults.get(name)
    variable = PREFIX + name.upper()
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(default, int) or name == "uid":
            return int(text)
        if isinstance(default, float):
            return float(text)
    except (ValueError, KeyError):
        expected = "true or false" if isinstance(default, bool) else "a number"
        raise SettingsError(f"{variable}={text}: expected {expected}") from None
    return text


def _check(settings: Settings) -> None:
    namespace, slash, name = settings.workload.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise SettingsError(f"--workload {settings.workload}: expected NAMESPACE/NAME, such as default/details-v1")
    if (settings.feed is None) == (settings.directory is None):
        raise SettingsError("a sidecar has its configuration from one place: --feed SOCKET or --directory DIR")
    if settings.directory is not None and settings.credentials is None:
        raise SettingsError("--directory needs --credentials DIR (cert-chain.pem, key.pem, root-cert.pem)")
    if not 1 <= settings.concurrency <= 256:
        raise SettingsError(f"--concurrency {settings.concurrency}: expected 1 to 256 worker threads")
    taken: dict[str, str] = {}
    for field in ADDRESSES:
        address = getattr(settings, field)
        _check_address(field, address)
        other = taken.setdefault(address, field)
        if other != field:
            raise SettingsError(f"--{field} and --{other} both say {address}: give each its own port")


def _check_address(field: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise SettingsError(f"--{field} {address}: expected ADDRESS:PORT, such as {Settings._field_defaults[field]}")
