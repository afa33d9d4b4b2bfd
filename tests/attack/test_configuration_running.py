"""Attack table 2.13, what speaks of a running sidecar: files that are cut, swapped, lost and flooded while traffic goes on.

In:      the pair of sidecars, whose configuration is a watched directory; policies and services put in and taken away.
Out:     one test an id (`test_cf_NN_…`); test_configuration.py has the others and the list of what waits.
"""

from __future__ import annotations

import json
import mmap
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshdp.sources.files import FileSource
from tests.e2e.test_swap import STRICT, Load, deny
from tests.support import wire
from tests.support.mesh import Mesh, get, opened_mesh
from tests.support.origin import Origin
from tests.support.pair import HTTP_PORT, SERVER_IP

NONE = "# none\n"
CONVERGED_S = 20.0
SETTLED_S = 0.5
AWAY = "apiVersion: v1\nkind: Service\nmetadata: {name: away}\nspec: {clusterIP: 10.96.0.9, ports: [{name: http, port: 9080}]}\n"
SLICE = f"""\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: away-1, labels: {{kubernetes.io/service-name: away}}}}
addressType: IPv4
ports: [{{name: http, port: {HTTP_PORT}}}]
endpoints: [{{addresses: [{SERVER_IP}]}}]
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Mesh]:
    with opened_mesh() as mesh:
        yield mesh
        assert "panicked" not in mesh.pair.client.log.read_text() + mesh.pair.server.log.read_text()


@pytest.fixture
def quiet(running: Mesh) -> Iterator[Mesh]:
    """Begins and ends without policies, serving."""
    put(running, "policies.yaml", NONE)
    until(lambda: running.status("/secret") == 200)
    yield running
    for path in (running.pair.configuration).iterdir():
        if path.name not in ("base.yaml", "policies.yaml") and not path.is_dir():
            path.unlink()
    put(running, "policies.yaml", NONE)
    until(lambda: running.status("/secret") == 200)


def put(mesh: Mesh, name: str, text: str) -> None:
    """By a rename, as tools do."""
    staged = mesh.pair.folder / "staged.yaml"
    staged.write_text(text)
    staged.replace(mesh.pair.configuration / name)


def until(so: object, within_s: float = CONVERGED_S) -> None:
    assert callable(so)
    assert Origin.wait(so, within_s), f"not so within {within_s} s"


def told(mesh: Mesh, text: str, since: int = 0) -> bool:
    return text in mesh.pair.server.log.read_text()[since:]


def settled_digest(mesh: Mesh) -> str:
    """The version in force once what earlier tests took away has been noticed, too."""
    digest = mesh.pair.server.digest()
    while True:
        time.sleep(SETTLED_S)
        if mesh.pair.server.digest() == digest:
            return digest
        digest = mesh.pair.server.digest()


# --- CF-02, CF-05: one bad part ------------------------------------------------------------------------------------------


def test_cf_02_a_bad_resource_among_good_ones_is_reported_and_the_others_are_in_force(quiet: Mesh) -> None:
    at = len(quiet.pair.server.log.read_text())
    bad = "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: 7}\n"
    put(quiet, "policies.yaml", "---\n".join([deny("/secret"), bad, deny("/second").replace("flips", "other")]))
    until(lambda: (quiet.status("/secret"), quiet.status("/second"), quiet.status("/open")) == (403, 403, 200))
    until(lambda: told(quiet, "MDP0202: Service default/bad spec.ports", at))
    digest = settled_digest(quiet)
    put(quiet, "policies.yaml", "---\n".join([deny("/secret"), "a: [", deny("/second").replace("flips", "other")]))
    until(lambda: told(quiet, "MDP0101", at))
    assert quiet.pair.server.digest() == digest, "the version is unchanged"


def test_cf_05_a_service_that_leads_nowhere_is_503_and_others_are_fine(quiet: Mesh) -> None:
    put(quiet, "away.yaml", AWAY)
    until(lambda: status_of(quiet, "away") == 503)
    assert quiet.status() == 200


def status_of(mesh: Mesh, host: str) -> int:
    heard = mesh.ask(get(host=host))
    return heard.statuses[0] if heard.statuses else 0


# --- CF-03: cut off ------------------------------------------------------------------------------------------------------


def test_cf_03_no_prefix_of_a_file_is_ever_believed(tmp_path: Path) -> None:
    """Every byte offset, three ways: the writer is at work, has died there, has come back."""
    whole = deny("/secret", "/other") + "---\n" + deny("/second").replace("flips", "other")
    path = tmp_path / "policies.yaml"
    path.write_text(whole)
    source = FileSource([tmp_path])
    before = list(source.load().resources)
    assert len(before) == 2
    for offset in range(len(whole)):
        with path.open("w") as file:
            file.write(whole[:offset])
            file.flush()
            assert list(source.load().resources) == before, f"being written, {offset} bytes"
        cut = source.load()
        assert list(cut.resources) == before, f"cut after {offset} bytes"
        assert [finding.code for finding in cut.errors] == ["MDP0108"], offset
    path.write_text(whole)
    assert source.load().errors == ()
    source.close()


def test_cf_03_traffic_never_sees_a_cut_file(quiet: Mesh) -> None:
    text = deny("/secret") + "---\n" + deny("/second").replace("flips", "other")
    path = quiet.pair.configuration / "policies.yaml"
    put(quiet, "policies.yaml", text)
    until(lambda: (quiet.status("/secret"), quiet.status("/second")) == (403, 403))
    digest = settled_digest(quiet)
    for offset in range(0, len(text), 23):
        at = len(quiet.pair.server.log.read_text())
        path.write_text(text[:offset])
        until(lambda at=at: told(quiet, "MDP0108", at))
        assert (quiet.status("/secret"), quiet.status("/second"), quiet.status("/open")) == (403, 403, 200), offset
        path.write_text(text)
        assert quiet.pair.server.digest() == digest


# --- CF-04: every way to replace, and notes that do not come -----------------------------------------------------------------


def test_cf_04_rename_and_link_swaps_converge_and_deletion_counts(quiet: Mesh) -> None:
    volume = quiet.pair.configuration / "volume"
    for number in (1, 2):
        (volume / f"..v{number}").mkdir(parents=True)
        (volume / f"..v{number}" / "linked.yaml").write_text(deny(f"/linked-{number}").replace("flips", "linked"))
    (volume / "..data").symlink_to("..v1")
    (volume / "linked.yaml").symlink_to("..data/linked.yaml")
    until(lambda: (quiet.status("/linked-1"), quiet.status("/linked-2")) == (403, 200))
    (volume / "..fresh").symlink_to("..v2")
    (volume / "..fresh").rename(volume / "..data")
    until(lambda: (quiet.status("/linked-1"), quiet.status("/linked-2")) == (200, 403))
    put(quiet, "policies.yaml", deny("/secret"))
    until(lambda: (quiet.status("/secret"), quiet.status("/linked-2")) == (403, 403))
    (quiet.pair.configuration / "policies.yaml").unlink()
    (volume / "linked.yaml").unlink()
    until(lambda: (quiet.status("/secret"), quiet.status("/linked-2")) == (200, 200))


def test_cf_04_a_file_that_may_not_be_read_keeps_what_it_said(quiet: Mesh) -> None:
    put(quiet, "policies.yaml", deny("/secret"))
    until(lambda: quiet.status("/secret") == 403)
    at, path = len(quiet.pair.server.log.read_text()), quiet.pair.configuration / "policies.yaml"
    path.chmod(0)
    until(lambda: told(quiet, "MDP0107", at))
    assert (quiet.status("/secret"), quiet.status("/open")) == (403, 200)
    path.write_text(deny("/other"))
    path.chmod(0o644)
    until(lambda: (quiet.status("/secret"), quiet.status("/other")) == (200, 403))


def test_cf_04_a_change_without_any_note_is_seen(quiet: Mesh) -> None:
    """Written through a memory map, which inotify does not tell of; network file systems are like that."""
    put(quiet, "policies.yaml", deny("/secret"))
    until(lambda: (quiet.status("/secret"), quiet.status("/tecret")) == (403, 200))
    with (quiet.pair.configuration / "policies.yaml").open("r+b") as file, mmap.mmap(file.fileno(), 0) as written:
        at = written.find(b"/secret")
        written[at : at + 2] = b"/t"
    until(lambda: (quiet.status("/secret"), quiet.status("/tecret")) == (200, 403), CONVERGED_S + 2)


def test_cf_04_notes_that_overflow_are_made_up_for(quiet: Mesh) -> None:
    process = quiet.pair.server.process
    assert process is not None
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    process.send_signal(signal.SIGSTOP)
    try:
        names = [quiet.pair.configuration / f"flood-{number}.yaml" for number in range(2)]
        for _ in range(limit // 4 + 100):  # two notes each: made, closed
            for name in names:
                name.touch()
        put(quiet, "policies.yaml", deny("/secret"))
    finally:
        process.send_signal(signal.SIGCONT)
    until(lambda: (quiet.status("/secret"), quiet.status("/open")) == (403, 200))


# --- CF-10: many changes -------------------------------------------------------------------------------------------------


def test_cf_10_a_hundred_updates_a_second_are_coalesced_and_end_on_the_last(quiet: Mesh) -> None:
    process = quiet.pair.server.process
    assert process is not None
    swaps, memory = stat(quiet, "swaps"), resident_kib(process.pid)
    with Load(quiet) as load:
        for number in range(300):
            put(quiet, "policies.yaml", deny(f"/never-{number}"))
            time.sleep(0.01)
        put(quiet, "policies.yaml", deny("/secret"))
        until(lambda: quiet.status("/secret") == 403)
    assert load.failures == []
    assert quiet.status("/never-299") == 200
    made = stat(quiet, "swaps") - swaps
    process.send_signal(signal.SIGSTOP)  # however fast the machine compiles, all of the burst finds it busy
    try:
        for number in range(1000):
            put(quiet, "policies.yaml", deny(f"/burst-{number}"))
    finally:
        process.send_signal(signal.SIGCONT)
    until(lambda: (quiet.status("/burst-999"), quiet.status("/secret")) == (403, 200))
    burst = stat(quiet, "swaps") - swaps - made
    grown = resident_kib(process.pid) - memory
    print(f"CF-10: 301 updates, {made} versions; at once 1,000 updates, {burst} versions; {grown} KiB")
    assert 1 <= made <= 301
    assert 1 <= burst <= 3, "what comes while one is taken is one more"
    assert grown < 16 * 1024


def stat(mesh: Mesh, name: str) -> int:
    return int(json.loads(mesh.pair.server.admin("/stats"))["config"][name])


def resident_kib(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


# --- CF-12, CF-13: what is taken away ------------------------------------------------------------------------------------


def test_cf_12_endpoints_are_empty_only_when_a_document_says_so(quiet: Mesh) -> None:
    put(quiet, "away.yaml", AWAY + "---\n" + SLICE)
    until(lambda: status_of(quiet, "away") == 200)
    for broken in (
        AWAY + "---\n" + SLICE.replace("endpoints:", "endpoints"),
        AWAY + "---\n" + SLICE.replace("[{", "[7,{"),
    ):
        at = len(quiet.pair.client.log.read_text())
        put(quiet, "away.yaml", broken)
        until(lambda at=at: "away.yaml" in quiet.pair.client.log.read_text()[at:])
        assert status_of(quiet, "away") == 200
    put(quiet, "away.yaml", AWAY + "---\n" + SLICE.partition("endpoints:")[0] + "endpoints: []\n")
    until(lambda: status_of(quiet, "away") == 503)


def test_cf_13_a_service_that_goes_lets_its_requests_end(quiet: Mesh) -> None:
    put(quiet, "away.yaml", AWAY + "---\n" + SLICE)
    until(lambda: status_of(quiet, "away") == 200)
    with ExitStack() as held:
        idle = [held.enter_context(wire.connect(quiet.pair, "outbound")) for _ in range(500)]
        for connection in idle:
            connection.sendall(get(host="away"))
            assert wire.listen(connection, 1).statuses == [200]
        busy = [held.enter_context(wire.connect(quiet.pair, "outbound")) for _ in range(8)]
        before = len(quiet.origin.requests)
        for connection in busy:
            connection.sendall(get("/slow/1500", host="away"))
        until(lambda: len(quiet.origin.requests) == before + len(busy))
        digest = quiet.pair.client.digest()
        (quiet.pair.configuration / "away.yaml").unlink()
        until(lambda: quiet.pair.client.digest() != digest)
        assert [wire.listen(connection, 1).statuses for connection in busy] == [[200]] * len(busy)
        for connection in idle:
            connection.sendall(get())
        statuses = [wire.listen(connection, 1).statuses for connection in idle]
        assert statuses == [[200]] * len(idle), "a kept connection serves the next request by the new version"
    assert quiet.status() == 200


# --- CF-14, CF-18: versions ----------------------------------------------------------------------------------------------


def test_cf_14_a_path_rule_never_meets_the_other_versions_policy(quiet: Mesh) -> None:
    """Each version normalises paths its own way and denies what `//secret` becomes by it; any mixture would let it pass."""
    merged = "apiVersion: meshdp.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: amesh}\nspec: {pathNormalization: {normalization: %s}}\n"
    versions = [
        deny("//secret") + "---\n" + merged % "NONE",
        deny("/secret") + "---\n" + merged % "MERGE_SLASHES",
    ]
    base = quiet.pair.configuration / "base.yaml"
    kept = base.read_text()
    put(quiet, "base.yaml", kept.partition("---\napiVersion: meshdp.io")[0])
    put(quiet, "policies.yaml", versions[0])
    until(lambda: (quiet.status("//secret"), quiet.status("/secret")) == (403, 200))
    seen: set[int] = set()
    swaps = stat(quiet, "swaps")
    with wire.connect(quiet.pair, "inbound") as probe:
        number = 0
        deadline = time.monotonic() + 120
        while stat(quiet, "swaps") - swaps < 40 and time.monotonic() < deadline:
            number += 1
            put(quiet, "policies.yaml", versions[(number + 1) % 2] + f"# {number}\n")
            for _ in range(10):
                probe.sendall(get("//secret"))
                seen.update(wire.listen(probe, 1).statuses)
    assert seen == {403}
    assert stat(quiet, "swaps") - swaps >= 40, "versions did come and go meanwhile"
    put(quiet, "policies.yaml", versions[1])
    until(lambda: (quiet.status("//secret"), quiet.status("/secret")) == (403, 403))
    put(quiet, "base.yaml", kept)


def test_cf_14_a_request_under_way_does_not_outlive_the_normal_form_it_went_by(quiet: Mesh) -> None:
    """What went upstream as `/slow` is `//slow` by the version that comes: nobody has judged the two together."""
    merged = "apiVersion: meshdp.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: amesh}\nspec: {pathNormalization: {normalization: %s}}\n"
    base = quiet.pair.configuration / "base.yaml"
    kept = base.read_text()
    put(quiet, "base.yaml", kept.partition("---\napiVersion: meshdp.io")[0])
    put(quiet, "policies.yaml", deny("/never") + "---\n" + merged % "MERGE_SLASHES")
    until(lambda: quiet.status("//never") == 403)
    with wire.connect(quiet.pair, "inbound") as changed, wire.connect(quiet.pair, "inbound") as same:
        before = len(quiet.origin.requests)
        changed.sendall(get("//slow/2000"))
        same.sendall(get("/slow/2000"))
        until(lambda: [one.target for one in quiet.origin.requests[before:]].count(b"/slow/2000") == 2)
        put(quiet, "policies.yaml", deny("/never") + "---\n" + merged % "NONE")
        assert wire.listen(changed, 1, 10).statuses == [403]
        assert wire.listen(same, 1, 10).statuses == [200], "what is the same by both goes on"
    put(quiet, "base.yaml", kept)


def test_cf_18_an_earlier_version_is_the_same_as_the_first_time(quiet: Mesh) -> None:
    texts = [deny("/a"), deny("/b") + "---" + STRICT, deny("/a", "/b")]
    targets = ("/a", "/b", "/c")

    def behaviour(text: str) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        quiet.pair.configure(text)
        return (
            quiet.pair.server.digest(),
            tuple(quiet.status(target) for target in targets),
            tuple(quiet.status(target, "inbound") for target in targets),
        )

    first = [behaviour(text) for text in texts]
    assert len({digest for digest, _, _ in first}) == 3
    assert first[1][2] == (0, 0, 0), "plaintext is refused under STRICT"
    for index in (0, 2, 1, 0, 1, 2):
        assert behaviour(texts[index]) == first[index]


def test_cf_18_a_held_connection_goes_by_the_version_that_is_back(quiet: Mesh) -> None:
    with wire.connect(quiet.pair, "outbound") as kept:
        for text, status in ((deny("/a"), 403), (NONE, 200), (deny("/a"), 403), (NONE, 200)):
            quiet.pair.configure(text)
            kept.sendall(get("/a"))
            assert wire.listen(kept, 1).statuses == [status]
