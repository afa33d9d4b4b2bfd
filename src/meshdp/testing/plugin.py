"""The pytest plugin: fixtures for policies, and a report of the rules that no test reached.

In:     `meshdp_policies` in the ini file, `--meshdp-policies DIR`, or the mark `policies("DIR")` on a test.
Out:    fixtures `policy_set` and `request_as`; a section at the end of the run; exit status 1 where that is asked for.
Limits: under pytest-xdist the workers report to the one that prints.
Every project that has meshdp installed loads this file: what costs time to import is imported when a fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from meshdp.testing.asking import Asking, Policies

_FROM_WORKER = "meshdp_reached"


class _Known:
    """The policy sets of a run, by folder, and what workers say of theirs."""

    def __init__(self) -> None:
        self.sets: dict[str, Policies] = {}

    def at(self, folder: Path) -> Policies:
        from meshdp.testing.asking import Policies

        key = str(folder.resolve())
        if key not in self.sets:
            self.sets[key] = Policies(folder)
        return self.sets[key]


_KNOWN = pytest.StashKey[_Known]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("meshdp_policies", "folder of the policies under test, from the root of the project", default="")
    group = parser.getgroup("meshdp")
    group.addoption("--meshdp-policies", metavar="DIR", help="folder of the policies under test")
    group.addoption(
        "--meshdp-fail-unreached", action="store_true", help="fail the run when a rule of them is reached by no test"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "policies(folder): the policies that `request_as` asks in this test")
    config.stash[_KNOWN] = _Known()


@pytest.fixture(scope="session")
def policy_set(pytestconfig: pytest.Config) -> Callable[[str | Path], Policies]:
    """Reads the policies of a folder once a run: `policy_set("k8s/").request_as(…)`."""
    known, root = pytestconfig.stash[_KNOWN], pytestconfig.rootpath
    return lambda folder: known.at(root / folder)


@pytest.fixture
def request_as(request: pytest.FixtureRequest, policy_set: Callable[[str | Path], Policies]) -> Callable[[str], Asking]:
    """Begins a request to the policies under test: `request_as("ns/sa").get("/x").to("details")`."""
    mark = request.node.get_closest_marker("policies")
    config = request.config
    folder = mark.args[0] if mark else config.getoption("--meshdp-policies") or config.getini("meshdp_policies")
    if not folder:
        pytest.fail("say where the policies are: meshdp_policies in the ini file, --meshdp-policies or a mark", False)
    return policy_set(folder).request_as


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    sets = session.config.stash[_KNOWN].sets
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_FROM_WORKER] = {folder: sorted(each.reached.rules) for folder, each in sets.items()}
        return
    is_asked = session.config.getoption("--meshdp-fail-unreached") and session.exitstatus == pytest.ExitCode.OK
    if is_asked and any(each.reached.unreached() for each in sets.values()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended: what its tests reached counts here."""
    for folder, rules in getattr(node, "workeroutput", {}).get(_FROM_WORKER, {}).items():
        node.config.stash[_KNOWN].at(Path(folder)).reached.add(rules)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for each in config.stash[_KNOWN].sets.values():
        unreached = each.reached.unreached()
        if unreached:
            terminalreporter.section(f"rules of {each.folder} that no test reached")
            for line in unreached:
                terminalreporter.write_line(line)
