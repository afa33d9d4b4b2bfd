"""The pytest plugin as its users run it: fixtures, failures that say why, the report of rules that no test reached."""

from __future__ import annotations

import os
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshdp.testing import Policies, assert_allowed, assert_denied

pytest_plugins = ("pytester",)

FOLDER = Path(__file__).parent / "authz"
ROOT = FOLDER.parents[2]
PLUGIN = "meshdp.testing.plugin"

TESTS = """
    import pytest
    from meshdp.testing import assert_allowed, assert_denied

    def test_who_reads_details(request_as):
        assert_allowed(request_as("default/admin").get("/other").to("details"))
        assert_denied(request_as("default/reviews").get("/details/0").to("details"), by="details-viewer")
        assert_denied(request_as("plaintext").get("/details/0").to("details"))

    def test_another_folder(policy_set):
        answer = policy_set("policies").request_as("default/admin").delete("/details/0").to("default/details:9080")
        answer.assert_denied(by="default/no-deletes")
        assert (answer.allowed, answer.policy, answer.status) == (False, "default/no-deletes", 403)
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    (pytester.path / "policies").mkdir()
    text = (FOLDER / "policies.yaml").read_text()
    (pytester.path / "policies" / "policies.yaml").write_text(text)
    pytester.makeini("[pytest]\nmeshdp_policies = policies\n")
    return pytester


def run(project: pytest.Pytester, *words: str) -> pytest.RunResult:
    installed = any(each.value == PLUGIN for each in entry_points(group="pytest11"))  # a checkout has no entry points
    return project.runpytest(*(() if installed else ("-p", PLUGIN)), *words)


def test_the_tests_of_the_page_are_run(project: pytest.Pytester) -> None:
    page = (ROOT / "docs" / "authz.md").read_text()
    shown = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(shown) == 2
    examples = ROOT / "configs" / "examples" / "policies"
    (project.path / "policies" / "policies.yaml").unlink()
    for file in examples.iterdir():
        (project.path / "policies" / file.name).write_text(file.read_text())
    project.makepyfile(test_first=shown[0], test_second=shown[1])
    run(project).assert_outcomes(passed=3)


def test_requests_are_judged_and_unreached_rules_reported(project: pytest.Pytester) -> None:
    project.makepyfile(TESTS)
    result = run(project)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["*rules of *policies that no test reached*", "*policies.yaml:31: rule 1 of default/details-viewer"]
    )
    assert "rule 0 of default/details-viewer" not in result.stdout.str()
    assert "rule 0 of default/tried" not in result.stdout.str()


def test_unreached_rules_can_fail_a_run(project: pytest.Pytester) -> None:
    project.makepyfile(TESTS)
    assert run(project, "--meshdp-fail-unreached").ret == pytest.ExitCode.TESTS_FAILED
    project.makepyfile(
        TESTS
        + """
    def test_the_rest(request_as):
        assert_allowed(request_as("default/productpage").with_header("x-user", "jason").get("/details/0").to("details"))
"""
    )
    result = run(project, "--meshdp-fail-unreached")
    assert result.ret == pytest.ExitCode.OK
    assert "no test reached" not in result.stdout.str()


def test_a_failure_says_why(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from meshdp.testing import assert_allowed, assert_denied

        def test_allowed(request_as):
            assert_allowed(request_as("default/productpage").get("/details/0").to("details"))

        def test_denied(request_as):
            assert_denied(request_as("default/admin").get("/details/0").to("details"))

        def test_by_another(request_as):
            assert_denied(request_as("default/admin").delete("/").to("details"), by="details-viewer")
        """
    )
    result = run(project)
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "*AssertionError: expected to be allowed",
            "*nearest     rule 1 of default/details-viewer at *policies.yaml:31; it lacks:",
            "*when[[]0[]].values (request.headers[[]x-user[]]) at *jason; found nothing: the request has no such value",
            "*AssertionError: expected to be denied",
            "*allowed by rule 0 of default/details-viewer (ALLOW) at *",
            "*AssertionError: expected to be denied by details-viewer",
            "*denied with 403 by rule 0 of default/no-deletes (DENY) at *",
        ]
    )


def test_the_folder_is_named_by_mark_option_or_ini(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        def test_it(request_as):
            assert request_as("default/nobody").get("/").to("details").allowed

        @pytest.mark.policies("policies")
        def test_marked(request_as):
            assert not request_as("default/nobody").get("/").to("details").allowed
        """
    )
    (project.path / "none").mkdir()
    run(project, "--meshdp-policies", "none", "--strict-markers").assert_outcomes(passed=2)
    project.makeini("")
    result = run(project)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*say where the policies are: meshdp_policies in the ini file*"])


def test_a_project_without_policies_pays_nothing(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import sys

        def test_nothing():
            assert not [name for name in ("meshdp._native", "meshdp.compiler", "msgspec", "yaml") if name in sys.modules]
        """
    )
    result = project.runpytest_subprocess("-p", PLUGIN)
    result.assert_outcomes(passed=1)
    assert "no test reached" not in result.stdout.str()


@pytest.fixture(scope="module")
def policies() -> Policies:
    return Policies(FOLDER)


def test_every_way_to_ask(policies: Policies) -> None:
    page = policies.request_as("default/productpage").with_header("x-user", "jason")
    assert_allowed(page.get("/details/0").to("details"))
    assert_allowed(
        page.from_ip("10.1.1.1", remote="10.9.9.9").request("GET", "/details/0", host="d").to("details:9081")
    )
    assert_allowed(policies.request_as("default/admin").patch("/").to("details"))
    for asking in (page.head, page.post, page.put, page.options, page.delete):
        assert_denied(asking("/details/0").to("details"))
    assert_denied(page.tcp().to("details:5432"), by="default/no-deletes")  # wider over TCP, as in Istio
    assert policies.request_as("plaintext").get("/").to("details", labels={"app": "other"}).status == 0
    assert policies.request_as("spiffe://cluster.local/ns/default/sa/admin").get("/").to("details").allowed


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder of policies"):
        Policies(tmp_path / "nowhere")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_drawn_requests_are_judged_and_meet_the_policies(data: st.DataObject) -> None:
    from meshdp.testing.strategies import requests

    policies = _shared()
    request = data.draw(requests(policies, "details:9080"))
    answer = policies.judge(request)
    assert not (answer.allowed and request.source.principal is None), "STRICT lets no plaintext in"
    SEEN.add((answer.allowed, answer.policy, answer.verdict.rule))


def test_drawn_requests_reach_every_rule() -> None:
    """After the test above: what is drawn is made of what the rules name, so all of them are met."""
    if SEEN:
        assert {(True, "default/details-viewer", 0), (False, "default/no-deletes", 0)} <= SEEN


def test_drawn_callers_can_be_chosen() -> None:
    from meshdp.testing.strategies import requests

    @settings(max_examples=20, deadline=None)
    @given(requests(_shared(), "details:9080", callers=["default/admin", "plaintext"]))
    def only_these(request: object) -> None:
        assert request.source.principal in ("cluster.local/ns/default/sa/admin", None)  # type: ignore[attr-defined]

    only_these()


SEEN: set[tuple[bool, str | None, int | None]] = set()
_KEPT: list[Policies] = []


def _shared() -> Policies:
    if not _KEPT:
        _KEPT.append(Policies(FOLDER))
    return _KEPT[0]


def test_rules_reached_in_other_processes_count(policies: Policies) -> None:
    policies = Policies(FOLDER)
    before = len(policies.reached.unreached())
    policies.reached.add([("default/tried", 0)])
    assert len(policies.reached.unreached()) == before - 1
    assert os.fspath(FOLDER) in policies.reached.unreached()[0]
