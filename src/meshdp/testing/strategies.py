"""Requests for Hypothesis, made of what the policies themselves name: callers, paths, hosts, headers, addresses.

In:     `Policies`, and who is asked.
Out:    a strategy of `Request`, for `policies.judge`. Half of what is drawn is named by a rule, the rest is near it.
Limits: paths and values are short; HTTP/1.1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from meshdp.compiler.select import Directory
from meshdp.resources.security import AuthorizationPolicy
from meshdp.testing.asking import Policies
from meshdp.verdicts import asked
from meshdp.verdicts.request import SOURCE_IP, Request
from meshdp.verdicts.written import Field, rules_of

Strategy = st.SearchStrategy[Any]

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_WORD = st.text("abcxyz019", min_size=1, max_size=4)


def requests(policies: Policies, to: str, *, callers: Sequence[str] | None = None) -> st.SearchStrategy[Request]:
    """Requests to `[NAMESPACE/]WORKLOAD[:PORT]`. callers: only these, as `request_as` takes them."""
    named = _Named(policies)
    target = asked.target(policies.set, to)
    allowed = [asked.principal(policies.set, each) for each in callers] if callers else named.callers()
    http = st.fixed_dictionaries(
        {
            "method": st.sampled_from(_METHODS),
            "path": named.of("paths", _path()).map(lambda path: path if path.startswith("/") else f"/{path}"),
            "headers": named.headers(),
        },
        optional={"host": named.of("hosts", st.just(target.name))},
    )
    return st.builds(
        lambda caller, http, source: asked.request(target, caller, http, source),
        st.sampled_from(allowed),
        http,
        st.fixed_dictionaries({"ip": named.addresses()}),
    )


class _Named:
    """What the rules of a policy set name."""

    def __init__(self, policies: Policies) -> None:
        resources = policies.set.resources
        self.trust_domain = Directory(resources).trust_domain
        domains = Directory(resources).trust_domains
        written = [each for each in resources.all(AuthorizationPolicy) if not each.broken]
        self.fields = [field for each in written for rule in rules_of(each, domains) for field in rule.fields]

    def of(self, name: str, others: Strategy) -> Strategy:
        """Texts that a list of this name takes, or others."""
        return st.one_of(*(_matching(value) for value in self._values(name)), others)

    def callers(self) -> list[str | None]:
        """Those who are named, one of nobody's, and plaintext."""
        whole = [value for value in self._values("principals", "source.principal") if "*" not in value]
        places = [value.replace("*", "x") for value in self._values("namespaces", "source.namespace")]
        accounts = [value.rpartition("/")[::2] for value in self._values("serviceAccounts", "source.serviceAccount")]
        inside = [f"{self.trust_domain}/ns/{place}/sa/default" for place in places]
        inside += [f"{self.trust_domain}/ns/{place or 'default'}/sa/{account}" for place, account in accounts]
        return [*whole, *inside, f"{self.trust_domain}/ns/nowhere/sa/nobody", None]

    def headers(self) -> Strategy:
        """Headers that a condition asks for, each there or not."""
        named: dict[str, list[str]] = {}
        for field in self.fields:
            if field.key.startswith("request.headers["):
                named.setdefault(field.key.removeprefix("request.headers[")[:-1], []).extend(field.values)
        optional = {name: st.one_of(*map(_matching, values), _WORD) for name, values in named.items()}
        return st.fixed_dictionaries({}, optional=optional)

    def addresses(self) -> Strategy:
        """The first address of every network that is named, and one of none."""
        networks = self._values("ipBlocks", "remoteIpBlocks", "source.ip", "remote.ip")
        return st.sampled_from([*map(_first, networks), SOURCE_IP])

    def _values(self, *names: str) -> list[str]:
        return sorted({value for field in self.fields if _plain(field) in names for value in field.values})


def _plain(field: Field) -> str:
    """The list's name without its `not`."""
    if field.key:
        return field.key
    name = field.name.removeprefix("not")
    return name[:1].lower() + name[1:]


def _matching(value: str) -> Strategy:
    """Texts that a value takes, by its stars and its templates."""
    if "{" in value:
        parts = [st.just(part) if "{" not in part else _WORD for part in value.split("/")]
        return st.tuples(*parts).map("/".join)
    if value == "*":
        return _WORD
    if value.startswith("*"):
        return _WORD.map(lambda word: word + value[1:])
    return _WORD.map(lambda word: value[:-1] + word) if value.endswith("*") else st.just(value)


def _path() -> Strategy:
    return st.lists(_WORD, max_size=3).map(lambda words: "/" + "/".join(words))


def _first(network: str) -> str:
    return str(ipaddress.ip_network(network, strict=False)[0])
