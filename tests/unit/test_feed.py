"""The feed: frames on a real Unix socket, and what is sent, withheld and repeated."""

import asyncio
import json
import os
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar

import pytest

from meshdp.compiler.snapshot import Snapshot
from meshdp.control.authority import Authority
from meshdp.control.frames import Frame, ProtocolError, read_frame
from meshdp.local import feed as feeds
from meshdp.local.feed import Feed

IDENTITY = "spiffe://cluster.local/ns/default/sa/a"


def snapshot(**sections: str) -> Snapshot:
    return Snapshot({name: json.dumps(text).encode() for name, text in sections.items()})


class Sidecar:
    """The other end of a feed."""

    opened: ClassVar[list["Sidecar"]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.opened.append(self)

    @classmethod
    async def connect(cls, path: Path, digest: str = "", workload: str = "default/a") -> "Sidecar":
        sidecar = cls(*await asyncio.open_unix_connection(str(path)))
        sidecar.send("H", {"workload": workload, "schema": 2, "version": "test", "digest": digest})
        return sidecar

    def send(self, kind: str, body: dict[str, object] | bytes) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.writer.write(Frame(kind, raw).encode())

    async def receive(self) -> Frame | None:
        return await asyncio.wait_for(read_frame(self.reader), 2)

    async def transaction(self) -> dict[str, object]:
        frame = await self.receive()
        assert frame is not None
        assert frame.kind == "T"
        found: dict[str, object] = json.loads(frame.body)
        return found

    async def nothing(self) -> bool:
        try:
            await asyncio.wait_for(self.reader.readexactly(1), 0.05)
        except TimeoutError:
            return True
        return False


Play = Callable[[Feed, Path], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Play], None]:
    """Runs a test against an open feed, whose reader is in the group of whoever runs the tests."""

    def playing(test: Play) -> None:
        async def main() -> None:
            feed = Feed("default/a", Authority.open(tmp_path / "authority", "root"), lambda: None)
            path = tmp_path / "feed" / "feed.sock"
            await feed.open(path, os.getgid())
            try:
                await test(feed, path)
            finally:
                await feed.close()
                while Sidecar.opened:
                    Sidecar.opened.pop().writer.close()
                await asyncio.sleep(0)

        asyncio.run(main())

    return playing


def test_a_frame_is_length_kind_and_body() -> None:
    assert Frame("A", b"{}").encode() == b"\0\0\0\x03A{}"


@pytest.mark.parametrize("raw", [b"\0\0\0\0A", b"\xff\xff\xff\xffA", b"\0\0\0\x09Ashort", b"\0\0"])
def test_what_is_no_frame_is_refused(raw: bytes) -> None:
    async def main() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(raw)
        reader.feed_eof()
        with pytest.raises(ProtocolError):
            await read_frame(reader)

    asyncio.run(main())


def test_the_folder_is_closed_to_others(play: Callable[[Play], None]) -> None:
    async def test(feed: Feed, path: Path) -> None:
        folder, socket = path.parent.stat(), path.stat()
        assert (folder.st_mode & 0o777, folder.st_uid, folder.st_gid) == (0o710, os.getuid(), os.getgid())
        assert (socket.st_mode & 0o777, socket.st_gid) == (0o660, os.getgid())

    play(test)


def test_a_new_sidecar_gets_the_whole_then_only_what_changed(play: Callable[[Play], None]) -> None:
    first, second = snapshot(mesh="1", peers="1"), snapshot(mesh="1", peers="2")

    async def test(feed: Feed, path: Path) -> None:
        feed.offer(first, IDENTITY)
        sidecar = await Sidecar.connect(path)
        whole = await sidecar.transaction()
        assert (whole["base"], whole["digest"], whole["put"]) == ("", first.digest, {"mesh": "1", "peers": "1"})
        sidecar.send("A", {"digest": first.digest})
        feed.offer(second, IDENTITY)
        change = await sidecar.transaction()
        assert (change["base"], change["put"]) == (first.digest, {"peers": "2"})
        sidecar.send("A", {"digest": second.digest})
        assert await sidecar.nothing()
        assert feed.settled

    play(test)


def test_one_transaction_flies_and_the_rest_is_folded(play: Callable[[Play], None]) -> None:
    states = [snapshot(mesh=str(number)) for number in range(5)]

    async def test(feed: Feed, path: Path) -> None:
        feed.offer(states[0], IDENTITY)
        sidecar = await Sidecar.connect(path)
        await sidecar.transaction()
        for state in states[1:]:
            feed.offer(state, IDENTITY)
        assert await sidecar.nothing()
        sidecar.send("A", {"digest": states[0].digest})
        assert (await sidecar.transaction())["digest"] == states[4].digest
        assert not feed.settled

    play(test)


def test_a_sidecar_that_comes_back_continues_from_what_it_has(play: Callable[[Play], None]) -> None:
    first, second = snapshot(mesh="1", peers="1"), snapshot(mesh="1", peers="2")

    async def test(feed: Feed, path: Path) -> None:
        feed.offer(first, IDENTITY)
        feed.offer(second, IDENTITY)
        assert (await (await Sidecar.connect(path, first.digest)).transaction())["base"] == first.digest
        assert (await (await Sidecar.connect(path, "0" * 64)).transaction())["base"] == ""
        assert await (await Sidecar.connect(path, second.digest)).nothing()
        assert feed.settled

    play(test)


def test_a_refusal_is_followed_by_the_whole_and_then_by_silence(play: Callable[[Play], None]) -> None:
    first, second, third = (snapshot(mesh=str(number)) for number in range(3))

    async def test(feed: Feed, path: Path) -> None:
        feed.offer(first, IDENTITY)
        sidecar = await Sidecar.connect(path)
        await sidecar.transaction()
        sidecar.send("A", {"digest": first.digest})
        feed.offer(second, IDENTITY)
        assert (await sidecar.transaction())["base"] == first.digest
        sidecar.send("N", {"digest": second.digest, "in_force": first.digest, "reason": "no"})
        assert (await sidecar.transaction())["base"] == ""
        sidecar.send("N", {"digest": second.digest, "in_force": first.digest, "reason": "still no"})
        assert await sidecar.nothing()
        assert (feed.refusal, feed.in_force, feed.settled) == ("still no", first.digest, False)
        feed.offer(third, IDENTITY)
        await sidecar.transaction()
        sidecar.send("A", {"digest": third.digest})
        assert await sidecar.nothing()
        assert (feed.refusal, feed.settled) == ("", True)

    play(test)


def test_certificates_are_for_the_sockets_identity(play: Callable[[Play], None]) -> None:
    from tests.unit.test_authority import EVIL, PRIVATE_KEY, request

    async def test(feed: Feed, path: Path) -> None:
        sidecar = await Sidecar.connect(path)
        sidecar.send("C", request())
        early = await sidecar.receive()
        assert early is not None
        assert early.kind == "E"
        feed.offer(snapshot(mesh="1"), IDENTITY)
        await sidecar.transaction()
        sidecar.send("C", request(PRIVATE_KEY, EVIL))
        other = await sidecar.receive()
        assert other is not None
        assert (other.kind, EVIL in other.fields()["message"], EVIL in feed.desk.error) == ("E", True, True)
        sidecar.send("C", request())
        answer = await sidecar.receive()
        assert answer is not None
        assert answer.kind == "K"
        assert "BEGIN CERTIFICATE" in answer.fields()["chain"]
        sidecar.send("C", b"nonsense")
        refused = await sidecar.receive()
        assert refused is not None
        assert (refused.kind, "expected" in refused.fields()["message"]) == ("E", True)

    play(test)


@pytest.mark.parametrize(
    "said",
    [
        Frame("A", b"{}").encode(),
        Frame("H", b'{"workload": "default/b"}').encode(),
        Frame("H", b"no json").encode(),
        Frame("H", b"[" * 100_000).encode(),
        Frame("H", b'{"workload": "default/a"}').encode() + Frame("I", b'{"x":' + b"[" * 100_000).encode(),
        struct.pack(">I", 1 << 30) + b"H",
        Frame("H", b'{"workload": "default/a"}').encode() + Frame("A", b'{"digest": "x"}').encode(),
        Frame("H", b'{"workload": "default/a"}').encode() + Frame("Z", b"").encode(),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_cut_off_and_reported(play: Callable[[Play], None], said: bytes) -> None:
    async def test(feed: Feed, path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(said)
        assert await asyncio.wait_for(reader.read(), 2) == b""
        assert "broke the feed's protocol" in feed.refusal
        writer.close()

    play(test)


def test_connections_that_say_nothing_are_few(play: Callable[[Play], None]) -> None:
    """Their descriptors are the whole mesh's: without them no sidecar is restarted, and none is fed."""

    async def test(feed: Feed, path: Path) -> None:
        silent = [await asyncio.open_unix_connection(str(path)) for _ in range(3 * feeds.CONNECTIONS_LIMIT)]
        ends = [asyncio.create_task(reader.read()) for reader, _ in silent]
        waiting = set(ends)
        while len(waiting) > feeds.CONNECTIONS_LIMIT:
            done, waiting = await asyncio.wait(waiting, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            assert {end.result() for end in done} == {b""}
        done, waiting = await asyncio.wait(waiting, timeout=0.2)
        assert (len(waiting), done) == (feeds.CONNECTIONS_LIMIT, set())
        for _, writer in silent:
            writer.close()
        await asyncio.wait(ends)
        feed.offer(snapshot(a="x"), IDENTITY)
        sidecar = await Sidecar.connect(path)
        assert (await sidecar.transaction())["base"] == ""

    play(test)


def test_silence_after_a_transaction_ends_the_connection(
    play: Callable[[Play], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "ANSWER_TIMEOUT_S", 0.05)

    async def test(feed: Feed, path: Path) -> None:
        feed.offer(snapshot(mesh="1"), IDENTITY)
        sidecar = await Sidecar.connect(path)
        await sidecar.transaction()
        assert await sidecar.receive() is None

    play(test)
