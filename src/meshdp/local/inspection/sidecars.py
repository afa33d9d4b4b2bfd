"""Finds the sidecars a command is about and asks their admin pages.

In:      a workload's name of a mesh that is up, or the admin address of any sidecar on this host.
Out:     `Sidecar.page`: a page of docs/admin.md as a dictionary.
Limits:  those of `inside.ask`: 16 MiB an answer, 2 s a question.
Fails:   UsageError for a workload without a sidecar or an address that is none, Unreachable when nobody answers.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from typing import Any

from meshdp.errors import Unreachable, UsageError
from meshdp.local.isolation import inside
from meshdp.local.isolation.inside import Answer
from meshdp.local.state import InstanceState, MeshState, instance_named, running

Ask = Callable[[str], Awaitable[Answer | None]]


class Sidecar:
    """One running sidecar. `instance` is what its mesh says of it; None when it was named by its address."""

    def __init__(self, name: str, ask: Ask, instance: InstanceState | None = None) -> None:
        self.name = name
        self.instance = instance
        self._ask = ask

    async def page(self, path: str) -> dict[str, Any]:
        """A page, whatever its status.

        Raises:
            Unreachable: no whole answer, or one that is not a sidecar's.
        """
        answer = await self._ask(path)
        if answer is None:
            hint = "is it starting? `meshdp ps` and `meshdp logs WORKLOAD --sidecar` say more"
            raise Unreachable(f"the sidecar of {self.name} does not answer", hint)
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise Unreachable(f"what answers for {self.name} is not a sidecar's admin page") from error
        if not isinstance(found, dict) or "error" in found:
            raise Unreachable(f"the sidecar of {self.name} does not know {path}: is it of another version?")
        return found


# What reading a page comes to that no sidecar has written: while one is away, its application may answer in its place.
MALFORMED = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, OSError)


def add_options(parser: ArgumentParser) -> None:
    """Declares the options that choose a sidecar."""
    name = "NAME or NAMESPACE/NAME, as `meshdp ps` shows it"
    parser.add_argument("workload", nargs="?", metavar="WORKLOAD", help=name)
    parser.add_argument("--mesh", metavar="NAME", help="which mesh, when several are up")
    parser.add_argument(
        "--admin", metavar="ADDRESS:PORT", help="a sidecar without a mesh: its admin address on this host (its --admin)"
    )


def chosen(args: Namespace) -> tuple[MeshState | None, list[Sidecar]]:
    """The sidecars that the options and `args.workload` mean: one by address, one by name, or all of the mesh.

    Raises:
        Unreachable: no mesh is up. UsageError: the name or the address means nothing.
    """
    if args.admin:
        if args.workload or args.mesh:
            raise UsageError("--admin names a sidecar by itself", "leave WORKLOAD and --mesh out")
        return None, [_at(args.admin)]
    _, mesh = running(args.mesh)
    if args.workload:
        instance = instance_named(mesh, args.workload)
        if not instance.sidecar:
            raise UsageError(f"{instance.namespace}/{instance.name} is outside the mesh: it has no sidecar")
        return mesh, [_of(instance)]
    return mesh, [_of(instance) for instance in mesh.instances if instance.sidecar]


def _of(instance: InstanceState) -> Sidecar:
    async def ask(path: str) -> Answer | None:
        return await inside.ask(instance.holder.pid, inside.ADMIN_PORT, path)

    return Sidecar(f"{instance.namespace}/{instance.name}", ask, instance)


def _at(address: str) -> Sidecar:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"expected --admin ADDRESS:PORT, found {address!r}", "for example --admin 127.0.0.1:15000")
    host = host.removeprefix("[").removesuffix("]")

    def ask_plainly(path: str) -> Answer | None:
        connection = http.client.HTTPConnection(host, int(port), timeout=inside.QUESTION_TIMEOUT_S)
        try:
            connection.request("GET", path, headers={"Host": "localhost"})
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(inside.ANSWER_LIMIT_BYTES))
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    async def ask(path: str) -> Answer | None:
        return await asyncio.to_thread(ask_plainly, path)

    return Sidecar(address, ask)
