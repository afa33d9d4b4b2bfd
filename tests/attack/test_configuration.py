"""Attack table 2.13, what needs no traffic: hostile documents through the reader, the decoder, the compiler and the engine's decoder.

In:      texts and directories made here.
Out:     one test an id (`test_cf_NN_…`); test_configuration_running.py has those that speak of a running sidecar. `WAITING` lists what waits.
Limits:  CPU time and memory growth are measured in a process of their own, for the machine may be busy.
"""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meshdp import settings
from meshdp.compiler import compile_all
from meshdp.errors import MeshdpError
from meshdp.local import mesh_file
from meshdp.resources import load
from meshdp.sources.files import FileSource, read_once
from meshdp.supervise.engine import Engine, SnapshotError, authorize, digest
from tests.support.meshes import MESH, loaded, policy, snapshot

HERE = Path(__file__).parent
IDS = [f"CF-{number:02}" for number in range(1, 19)]

# What of an id cannot occur yet, and when it will. An id that has no test at all must stand here.
WAITING = {
    "CF-05": "later routing: VirtualService, subsets and gateways' secrets; tested here: a service that leads nowhere",
    "CF-06": "later routing: regular expressions written by users (VirtualService); tested here: the patterns that policies become",
    "CF-07": "later Kubernetes: 10,000 services x 100 endpoints need more than one transaction of 64 MiB; tested here: a twentieth of it",
    "CF-09": "later routing: delegates of VirtualService",
    "CF-11": "later Kubernetes: nonces of xDS; tested here: transactions, and the feed in native/engine (client_tests.rs)",
    "CF-16": "later Kubernetes: Gateway and credentials across namespaces",
}

CPU_LIMIT_S = 0.1
GROWTH_LIMIT_BYTES = 50 << 20
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: fine}\nspec: {ports: [{port: 80}]}\n"
HEAD = "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\n"


def test_every_id_of_table_2_13_is_tested_or_waits_with_a_milestone() -> None:
    named = re.findall(r"^def test_cf_(\d\d)_", "".join(path.read_text() for path in HERE.glob("*.py")), re.MULTILINE)
    tested = {f"CF-{number}" for number in named}
    assert tested <= set(IDS)
    assert set(IDS) - tested <= set(WAITING)
    assert all(re.match(r"(M\d|later Kubernetes|later routing): ", reason) for reason in WAITING.values())


def measured(work: Callable[[], object]) -> tuple[float, int]:
    """CPU seconds and growth in bytes of some work, in a process of its own."""
    reader, writer = os.pipe()
    gc.collect()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
            work()
            spent = time.process_time() - began
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            os.write(writer, json.dumps([spent, grown * 1024]).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the work ended with {status}: a crash is no refusal"
    spent, grown = json.loads(said)
    return spent, grown


# --- CF-01: text that is no configuration --------------------------------------------------------------------------------


def bomb(levels: int, width: int) -> str:
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, levels)]
    return HEAD + "\n".join(lines) + "\n"


HOSTILE: dict[str, bytes] = {
    name: text.encode() if isinstance(text, str) else text
    for name, text in {
        "empty": "",
        "blank": "\n \n\t\n",
        "binary": bytes(range(256)) * 64,
        "utf-16 with its mark": "kind: X\n".encode("utf-16"),
        "tabs": f"{HEAD}spec:\n\tports: []\n",
        "truncated": HEAD[:-8],
        "alias bomb": bomb(10, 10),
        "wide alias bomb": bomb(3, 1000),
        "an alias of itself": f"{HEAD}a: &a [*a]\n",
        "10,000 open brackets": f"{HEAD}a: {'[' * 10_000}",
        "10,000 levels of lists": f"{HEAD}a: {'[' * 10_000}{']' * 10_000}\n",
        "10,000 levels of maps": f"{HEAD}a: {'{a: ' * 10_000}{'}' * 10_000}\n",
        "10,000 levels of dashes": f"{HEAD}a:\n{'- ' * 10_000}x\n",
        "1,000 levels of indentation": HEAD + "".join(f"{' ' * level}a:\n" for level in range(1000)),
        "1,000,000 open brackets": f"{HEAD}a: {'[' * 1_000_000}",
        "duplicate keys": f"{HEAD}spec: {{}}\nspec: {{}}\n",
        "10,000 duplicate keys": HEAD + "a: 1\n" * 10_000,
        "not a number": f"{HEAD}a: .nan\n",
        "infinity": f"{HEAD}a: -.inf\n",
        "a tag that makes objects": f"{HEAD}a: !!python/object/apply:os.system [id]\n",
        "merge key": f"{HEAD}a: &a {{}}\nb: {{<<: *a}}\n",
        "100,000 documents": "---\n{}\n" * 100_000,
        "NUL": f"{HEAD}a: \0\n",
    }.items()
}


@pytest.mark.parametrize("name", HOSTILE)
def test_cf_01_hostile_text_is_refused_with_its_line_and_the_last_good_one_stays(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SERVICE)
    source = FileSource([path])
    assert [item.name for item in source.load().resources] == ["fine"]
    path.write_bytes(HOSTILE[name])
    now = source.load()
    source.close()
    assert [item.name for item in now.resources] == ["fine"]
    assert now.errors
    assert all(finding.where.line >= 1 and finding.hint for finding in now.errors)
    spent_s, grown_bytes = measured(lambda: read_once([path]))
    assert spent_s < CPU_LIMIT_S, spent_s
    assert grown_bytes < GROWTH_LIMIT_BYTES, grown_bytes


def test_cf_01_8_mib_of_nothing_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("\n" * (8 << 20))
    _, grown_bytes = measured(lambda: read_once([path]))
    assert grown_bytes < GROWTH_LIMIT_BYTES, grown_bytes


@pytest.mark.parametrize(("written", "value"), [("no", "false"), ("on", "true"), ("0o17", "15"), ("017", "15")])
def test_cf_01_yaml_1_1_values_are_not_strings_by_chance(written: str, value: str) -> None:
    """`app: no` is a boolean to kubectl, so it is an error here and never the label "no"."""
    text = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: a, labels: {{app: {written}}}}}\n"
    found = load([("a.yaml", text)])
    assert [(finding.code, finding.where.line) for finding in found.errors] == [("MDP0202", 3)], value


# --- CF-06: patterns -----------------------------------------------------------------------------------------------------


def paths(*values: str) -> str:
    return policy("AuthorizationPolicy", json.dumps({"rules": [{"to": [{"operation": {"paths": list(values)}}]}]}))


def test_cf_06_a_value_of_a_mebibyte_is_refused_and_denies() -> None:
    for value in ("/" + "a" * (1 << 20), "/{*}" * (1 << 18)):
        found = loaded(paths(value))
        assert [finding.code for finding in found.errors] == ["MDP0301"]
        (held,) = snapshot(paths(value)).section("authz")["policies"]
        assert held["rules"] in ([], [{"from": [], "to": [], "when": []}]), "it denies what it selects"


@pytest.mark.parametrize(
    "expression", ["(a{1000}){1000}", "((a{100}){100}){100}", "a" * (1 << 20) + "(", "(?=a)", "x{99999}", "(" * 10_000]
)
def test_cf_06_the_engine_refuses_patterns_beyond_its_bound_in_time(expression: str) -> None:
    body = json.loads(snapshot(paths("/{*}")).transaction(None))
    body["put"]["authz"]["policies"][0]["rules"][0]["to"][0][0]["values"] = [{"kind": "regex", "value": expression}]

    def refused() -> None:
        with pytest.raises(SnapshotError, match='section "authz" is malformed'):
            digest(json.dumps(body).encode())

    spent_s, _ = measured(refused)
    assert spent_s < 1, spent_s


def test_cf_06_ten_thousand_templates_are_compiled_and_answer_in_linear_time() -> None:
    """`/p/{*}/…` many times: one automaton, or each asked in turn; never backtracking."""
    values = [f"/p{number}/{{*}}/{{**}}" for number in range(10_000)]
    transaction = snapshot(paths(*values)).transaction(None)
    text = "/p9999/" + "a" * 4000 + "/" + "b/" * 1000

    def ask() -> None:
        answer = json.loads(authorize(transaction, request(text)))
        assert answer["allowed"] is True, answer

    spent_s, _ = measured(ask)
    assert spent_s < 5, spent_s


def request(target: str) -> bytes:
    facts = {
        "direction": "inbound",
        "peer": None,
        "source": "10.1.0.5:40000",
        "destination": "10.244.0.2:9080",
        "sni": None,
        "head": f"GET {target} HTTP/1.1\r\nHost: details\r\n\r\n",
        "detected": {"tls": False, "alpn": ["http/1.1"]},
    }
    return json.dumps(facts).encode()


# --- CF-07: size ---------------------------------------------------------------------------------------------------------


def test_cf_07_many_services_and_policies_compile_within_seconds() -> None:
    """500 services x 10 endpoints and 100 policies x 10 rules: about a twentieth of the table's, as files are read today."""
    texts = [MESH]
    for number in range(500):
        address = f"10.97.{number // 250}.{number % 250 + 1}"
        ports = f"ports: [{{name: http, port: {number + 100}, targetPort: 8080}}]"
        texts.append(
            f"apiVersion: v1\nkind: Service\nmetadata: {{name: s{number}}}\nspec: {{clusterIP: {address}, {ports}}}\n"
        )
        ends = ", ".join(f'{{addresses: ["10.{130 + end}.{number // 250}.{number % 250}"]}}' for end in range(10))
        texts.append(
            f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\n"
            f"metadata: {{name: s{number}-1, labels: {{kubernetes.io/service-name: s{number}}}}}\nendpoints: [{ends}]\n"
        )
    rules = [{"to": [{"operation": {"paths": [f"/p{number}/*"], "methods": ["GET"]}}]} for number in range(10)]
    texts += [
        policy("AuthorizationPolicy", json.dumps({"action": "DENY", "rules": rules}), f"p{n}") for n in range(100)
    ]

    def whole() -> None:
        snapshots = compile_all(load([("all.yaml", "---\n".join(texts))]).resources)
        assert digest(snapshots["default", "details-v1"].transaction(None)) == snapshots["default", "details-v1"].digest

    spent_s, grown_bytes = measured(whole)
    print(f"CF-07: {spent_s:.2f} s CPU, {grown_bytes >> 20} MiB")
    assert spent_s < 5, spent_s


# --- CF-08, CF-09: fields and objects ------------------------------------------------------------------------------------


def test_cf_08_an_unknown_field_of_a_security_policy_denies_and_a_known_traffic_field_warns() -> None:
    found = loaded(policy("AuthorizationPolicy", "{rules: [{form: []}]}"))
    assert [(finding.code, finding.severity) for finding in found.errors] == [("MDP0201", "error")]
    (held,) = snapshot(policy("AuthorizationPolicy", "{rules: [{form: []}]}")).section("authz")["policies"]
    assert (held["action"], held["rules"]) == ("DENY", [{"from": [], "to": [], "when": []}]), "everything is denied"
    route = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: [details]}\n"
    warned = load([("v.yaml", route)])
    assert [(finding.code, finding.severity) for finding in warned.findings] == [("MDP0401", "warning")]


def test_cf_09_of_two_objects_with_one_name_the_same_one_wins_in_any_order(tmp_path: Path) -> None:
    texts = {f"{name}.yaml": SERVICE.replace("port: 80", f"port: {port}") for name, port in (("a", 81), ("b", 82))}
    digests = set()
    for order in (("a.yaml", "b.yaml"), ("b.yaml", "a.yaml")):
        for name in order:
            (tmp_path / name).unlink(missing_ok=True)
        for name in order:
            (tmp_path / name).write_text(texts[name])
        found = read_once([tmp_path])
        assert [(finding.code, Path(finding.where.file).name) for finding in found.errors] == [("MDP0206", "b.yaml")]
        digests.add(repr(list(found.resources)))
    assert len(digests) == 1


def test_cf_09_of_two_policies_for_one_scope_the_oldest_counts_whatever_the_order() -> None:
    def aged(name: str, mode: str, when: str) -> str:
        text = policy("PeerAuthentication", f"{{mtls: {{mode: {mode}}}}}", name)
        return text.replace("namespace:", f'creationTimestamp: "{when}", namespace:')

    old, young = aged("z", "STRICT", "2026-01-01T00:00:00Z"), aged("a", "DISABLE", "2026-01-02T00:00:00Z")
    modes = {snapshot(*order).section("inbound/9080")["mode"] for order in ((old, young), (young, old))}
    assert modes == {"STRICT"}


# --- CF-11: transactions ---------------------------------------------------------------------------------------------------


def test_cf_11_stale_replayed_cut_and_oversized_transactions_change_nothing() -> None:
    engine = Engine(settings.read({"workload": "default/details-v1", "feed": "/nowhere"}, {}).for_engine())
    first, second = snapshot(), snapshot(policy("PeerAuthentication", "{mtls: {mode: STRICT}}"))
    assert engine.swap(first.transaction(None)) == first.digest
    step = second.transaction(first)
    for cut in range(len(step)):
        with pytest.raises(SnapshotError):
            engine.swap(step[:cut])
    assert engine.swap(step) == second.digest
    for stale in (step, first.transaction(snapshot(paths("/a")))):
        with pytest.raises(SnapshotError, match="starts from"):
            engine.swap(stale)
    with pytest.raises(SnapshotError, match="at most 67108864 bytes"):
        engine.swap(b" " * ((64 << 20) + 1))
    assert engine.swap(second.transaction(None)) == second.digest, "a duplicate is the same version"
    assert json.loads(engine.stats())["config"]["digest"] == second.digest


# --- CF-15, CF-17: values and names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path"),
    [
        *(
            (f"MeshConfig connectTimeout: {value}", "spec.connectTimeout")
            for value in ("-1s", "1e99s", "0s", "0", "1", "s")
        ),
        *(
            (f"Service {{ports: [{{port: {value}}}]}}", "spec.ports[0].port")
            for value in ("0", "65536", "-1", "80.5", "1e3")
        ),
        *(
            (f"Service {{ports: [{{port: 1, targetPort: {value}}}]}}", "spec.ports[0].targetPort")
            for value in ("65536", "-1")
        ),
        *(
            (f"WorkloadEntry {{address: 10.0.0.1, weight: {value}}}", "spec.weight")
            for value in ("-1", "4294967296", "1.5")
        ),
    ],
)
def test_cf_15_numbers_that_cannot_be_are_refused(text: str, path: str) -> None:
    kind, _, spec = text.partition(" ")
    version = {"Service": "v1", "MeshConfig": "meshdp.io/v1alpha1", "WorkloadEntry": "networking.istio.io/v1"}[kind]
    spec = spec if spec.startswith("{") else f"{{{spec}}}"
    found = load([("a.yaml", f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n")])
    assert [finding.path for finding in found.errors] == [path], found.findings
    assert found.errors[0].where.line == 4


NAMES = {
    "dots": "../../etc/passwd",
    "newline": "a\nb",
    "64 KiB": "a" * 65_536,
    "emoji": "🙂",
    "slash": "a/b",
    "shell": "$(id)",
    "ansi": "\x1b[31m",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["name", "namespace"])
def test_cf_17_names_that_no_object_can_have_are_refused_and_shown_on_one_line(name: str, field: str) -> None:
    meta = {"name": "fine", field: NAMES[name]}
    for kind, version in (("Service", "v1"), ("AuthorizationPolicy", "security.istio.io/v1")):
        document = {"apiVersion": version, "kind": kind, "metadata": meta, "spec": {}}
        found = load([("a.yaml", json.dumps(document, ensure_ascii=False))])
        assert [finding.code for finding in found.errors] == ["MDP0205"], found.findings
        shown = str(found.errors[0])
        assert shown.isprintable() and len(shown) < 1000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["mesh", "name", "namespace", "serviceAccount"])
def test_cf_17_no_name_of_a_local_mesh_becomes_a_path_or_an_identity(name: str, field: str, tmp_path: Path) -> None:
    workload = {"name": "fine", "command": ["true"]} | ({field: NAMES[name]} if field != "mesh" else {})
    spec = {"resources": [], "workloads": [workload]}
    meta = {"name": NAMES[name] if field == "mesh" else "fine"}
    path = tmp_path / "mesh.yaml"
    path.write_text(
        json.dumps({"apiVersion": "meshdp.io/v1alpha1", "kind": "LocalMesh", "metadata": meta, "spec": spec})
    )
    with pytest.raises(MeshdpError) as refused:
        mesh_file.load(path)
    assert "mesh.yaml:1" in str(refused.value)


@pytest.mark.parametrize("name", ["dots", "newline", "slash", "64 KiB"])
def test_cf_17_no_service_account_becomes_another_identity(name: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"serviceAccountName": NAMES[name]}}
    found = load([("a.yaml", json.dumps(pod))])
    assert [finding.path for finding in found.errors] == ["spec.serviceAccountName"], found.findings
