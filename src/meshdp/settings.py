"""What one sidecar is told once, at its start: flags over `MESHDP_*` variables over defaults, frozen from then on.

In:     parsed flags and the environment.
Out:    `Settings`, and the JSON document the engine reads (`Engine.__new__`'s argument).
Fails:  with `SettingsError` naming the flag or the variable, what it held and what is expected.
"""

from __future__ import annotations

from meshdp import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "MESHDP_"


class SettingsError(ValueError):
    """A flag or a variable that cannot be used."""


class Settings:
    """Everything a sidecar does not learn from its configuration. Frozen; a plain class: `typing` costs time."""

    workload: str
    feed: str | None
    config: str | None
    credentials: str | None
    csr_socket: str | None
    identity: str | None
    concurrency: int
    outbound: str
    inbound: str
    admin: str
    status: str
    readiness: str
    metrics: str
    inbound_source: str
    access_log: str
    drain_s: float
    idle_s: float
    keepalive_s: float
    uid: int | None
    mark: int | None
    post_quantum: bool
    single_instance: bool

    def __init__(self, chosen: Mapping[str, object]) -> None:
        self.__dict__.update(DEFAULTS | dict(chosen))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings are frozen: {name}")

    def for_engine(self) -> bytes:
        """Encode what the engine needs; nothing secret is in it."""
        from json import dumps

        engine = {name: getattr(self, name) for name in ENGINE_FIELDS}
        limits = {"idle_ms": round(self.idle_s * 1_000), "keepalive_ms": round(self.keepalive_s * 1_000)}
        return dumps(engine | {"limits": limits, "version": __version__}).encode()


DEFAULTS: dict[str, object] = {
    "workload": "",
    "feed": None,
    "config": None,
    "credentials": None,
    "csr_socket": None,
    "identity": None,
    "concurrency": 1,
    "outbound": "0.0.0.0:15001",
    "inbound": "0.0.0.0:15006",
    "admin": "127.0.0.1:15000",
    "status": "0.0.0.0:15020",
    "readiness": "0.0.0.0:15021",
    "metrics": "0.0.0.0:15090",
    "inbound_source": "127.0.0.6",
    "access_log": "stdout",
    "drain_s": 5.0,
    "idle_s": 300.0,
    "keepalive_s": 120.0,
    "uid": None,
    "mark": None,
    "post_quantum": True,
    "single_instance": True,
}

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
    "csr_socket",
    "identity",
    "mark",
    "post_quantum",
    "single_instance",
)

ADDRESSES = ("outbound", "inbound", "admin", "status", "readiness", "metrics")


def read(flags: Mapping[str, object], environment: Mapping[str, str]) -> Settings:
    """Merge flags that were given (not None) over variables over defaults, and check each value."""
    chosen: dict[str, object] = {}
    for name in DEFAULTS:
        flag = flags.get(name)
        variable = PREFIX + name.upper()
        if flag is not None:
            chosen[name] = _convert(name, flag, flag_of(name) + " ") if isinstance(flag, str) else flag
        elif variable in environment:
            chosen[name] = _convert(name, environment[variable], variable + "=")
    if not chosen.get("workload"):
        raise SettingsError("a sidecar serves one workload: name it with --workload NAMESPACE/NAME")
    settings = Settings(chosen)
    _check(settings)
    return settings


def flag_of(name: str) -> str:
    """The flag that sets a field."""
    return "--" + name.replace("_", "-")


def _convert(name: str, text: str, shown: str) -> object:
    """Turn text into the type of its field; `shown` is the flag or variable as it was written."""
    default = DEFAULTS[name]
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if name == "mark":
            return int(text, 0)  # marks are written in hexadecimal, as in rules
        if isinstance(default, int) or name == "uid":
            return int(text)
        if isinstance(default, float):
            return float(text)
    except (ValueError, KeyError):
        expected = "true or false" if isinstance(default, bool) else "a number"
        raise SettingsError(f"{shown}{text}: expected {expected}") from None
    return text


def _check(settings: Settings) -> None:
    namespace, slash, name = settings.workload.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise SettingsError(f"--workload {settings.workload}: expected NAMESPACE/NAME, such as default/details-v1")
    if (settings.feed is None) == (settings.config is None):
        raise SettingsError("a sidecar has its configuration from one place: --feed SOCKET or --config DIR")
    sources = [settings.credentials, settings.csr_socket]
    if settings.config is not None and sources.count(None) != 1:
        files = "--credentials DIR (cert-chain.pem, key.pem, root-cert.pem)"
        raise SettingsError(f"--config needs certificates from one place: {files} or --csr-socket SOCKET")
    if settings.feed is not None and sources.count(None) != len(sources):
        raise SettingsError("a feed brings the certificate: leave --credentials and --csr-socket out")
    if not 1 <= settings.concurrency <= 256:
        raise SettingsError(f"--concurrency {settings.concurrency}: expected 1 to 256 worker threads")
    if settings.uid is not None and settings.uid < 0:
        raise SettingsError(f"--uid {settings.uid}: expected 0 or more")
    if settings.mark is not None and not 0 < settings.mark < 1 << 32:
        raise SettingsError(f"--mark {settings.mark:#x}: expected 1 to 0xffffffff")
    if not 0 <= settings.drain_s < float("inf"):  # a NaN is neither
        raise SettingsError(f"--drain-s {settings.drain_s}: expected 0 or more seconds")
    if not 0 < settings.idle_s < float("inf"):
        raise SettingsError(f"--idle-s {settings.idle_s}: expected more than 0 seconds")
    if not 0 <= settings.keepalive_s < float("inf"):
        raise SettingsError(f"--keepalive-s {settings.keepalive_s}: expected seconds, or 0 for never")
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
        raise SettingsError(f"--{field} {address}: expected ADDRESS:PORT, such as {DEFAULTS[field]}")
