"""Compares the rules that the real meshdp-init plans with those that istio-iptables plans, case by case.

In:      the `interception` folder of the conformance data; the built program, run with `--dry-run`.
Out:     one pytest id a case; what this milestone cannot do is skipped as `unsupported: <milestone>: <reason>`.
Fails:   a rule that differs, a case that does not run, a listed case that the program would accept.
Source:  `INDEX.md` beside the data: the literal `*-save` lines are dropped, tables are compared one by one, in order.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFORMANCE = Path(os.environ.get("MESHDP_CONFORMANCE", ROOT.parent / "shared" / "conformance"))
DATA = CONFORMANCE / "interception"
LISTED: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parent / "unsupported" / "interception.json").read_text()
)

FLAGS = {
    "ProxyPort": "-p",
    "InboundCapturePort": "-z",
    "InboundTunnelPort": "-e",
    "ProxyUID": "-u",
    "ProxyGID": "-g",
    "InboundInterceptionMode": "-m",
    "InboundTProxyMark": "-t",
    "InboundTProxyRouteTable": "-r",
    "InboundPortsInclude": "-b",
    "InboundPortsExclude": "-d",
    "OutboundPortsInclude": "-q",
    "OutboundPortsExclude": "-o",
    "OutboundIPRangesInclude": "-i",
    "OutboundIPRangesExclude": "-x",
    "RerouteVirtualInterfaces": "-k",
    "ExcludeInterfaces": "-c",
    "RedirectDNS": "--redirect-dns",
    "CaptureAllDNS": "--capture-all-dns",
    "DropInvalid": "--drop-invalid",
    "DualStack": "--dual-stack",
}
VARIABLES = {
    "OwnerGroupsInclude": "ISTIO_OUTBOUND_OWNER_GROUPS",
    "OwnerGroupsExclude": "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
    "HostIPv4LoopbackCidr": "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",
}
# Not flags: every run here is a dry run; the others are found out by the program from the machine it runs on.
FOUND_OUT = {"DryRun", "EnableIPv6", "DNSServersV4", "DNSServersV6"}

# What a case of another folder may ask for and this milestone lacks: key, values that ask for nothing, reason.
LATER: list[tuple[str, list[object], str]] = [
    ("InboundInterceptionMode", ["", "REDIRECT"], "TPROXY mode"),
    ("EnableIPv6", [False], "IPv6 rules"),
    ("DualStack", [False], "IPv6 rules"),
    ("RedirectDNS", [False], "DNS capture"),
    ("CaptureAllDNS", [False], "DNS capture"),
    ("DropInvalid", [False], "dropping of invalid packets"),
    ("OwnerGroupsInclude", ["", "*"], "capture by owner group"),
    ("OwnerGroupsExclude", [""], "capture by owner group"),
]
# Cases whose golden file the shared folder does not hold. Any other that is missing fails.
WITHHELD = {
    "interception/cni/basic",
    "interception/iptables/host-ipv4-loopback-cidr",
    "interception/iptables/ipnets-with-kube-virt-interfaces",
}
POD_VARIABLES = {"ISTIO_META_DNS_CAPTURE", "INVALID_DROP", "ISTIO_DUAL_STACK"}


@dataclass(frozen=True)
class Case:
    """One case: its id, what it gives the program, and what the program must do with it."""

    id: str
    args: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    golden: Path | None = None
    ranges: list[str] | None = None
    accepted: bool = True
    later: str | None = None
    refusable: bool = True


def iptables_cases() -> list[Case]:
    """Every configuration with a golden file."""
    cases = []
    for case in load("iptables_cases.json")["cases"]:
        config = case["config"]
        unknown = set(config) - set(FLAGS) - set(VARIABLES) - FOUND_OUT
        assert not unknown, f"{case['name']}: no flag is known for {sorted(unknown)}"
        later = [(key, reason) for key, nothing, reason in LATER if config.get(key, nothing[0]) not in nothing]
        cases.append(
            Case(
                id=f"interception/iptables/{case['name']}",
                args=[word for key, value in config.items() if key in FLAGS for word in as_flag(FLAGS[key], value)],
                env={VARIABLES[key]: str(value) for key, value in config.items() if key in VARIABLES},
                golden=DATA / case["golden"],
                later=later[0][1] if later else None,
                refusable=any(key in FLAGS or key in VARIABLES for key, _ in later),
            )
        )
    return cases


def cni_cases() -> list[Case]:
    """The same rules as asked for by a pod's annotations; the CNI plugin's defaults are applied here."""
    cases = []
    for case in load("cni_annotation_cases.json")["tables"][0]["cases"]:
        asked = {key.rpartition("/")[2]: value for key, value in case["annotations"].items()}
        excluded = [*asked.get("excludeInboundPorts", "15020").split(","), "15020", "15021", "15090"]
        variables = {entry["name"]: entry["value"] for entry in case.get("proxyEnv", [])}
        args = ["-u", str(case.get("customUID", 1337)), "-g", str(case.get("customGID", 1337))]
        args += ["-b", asked.get("includeInboundPorts", "*"), "-d", ",".join(dict.fromkeys(excluded))]
        args += ["-i", asked.get("includeOutboundIPRanges", "*"), "-x", asked.get("excludeOutboundIPRanges", "")]
        args += ["-q", asked.get("includeOutboundPorts", ""), "-o", asked.get("excludeOutboundPorts", "15020")]
        args += ["-m", asked.get("interceptionMode", "REDIRECT")]
        args += ["-k", asked.get("reroute-virtual-interfaces", asked.get("kubevirtInterfaces", ""))]
        args += ["-c", asked.get("excludeInterfaces", "")]
        later = "DNS capture, dropping of invalid packets, IPv6" if POD_VARIABLES & set(variables) else None
        later = "TPROXY mode" if asked.get("interceptionMode") == "TPROXY" else later
        name = f"interception/cni/{case['name']}"
        cases.append(Case(id=name, args=args, env=variables, golden=DATA / case["golden"], later=later))
    return cases


def config_cases() -> list[Case]:
    """Splitting of ranges, and what counts as a valid value."""
    cases = []
    for table in load("config_cases.json")["tables"] + load("config_validation_cases.json")["tables"]:
        for case in table["cases"]:
            name = f"interception/config/{table['test']}/{case['name']}"
            cases.append(config_case(name, table["test"], case))
    return cases


def config_case(name: str, test: str, case: dict[str, Any]) -> Case:
    """One row of the tables of Istio's own configuration tests."""
    if test == "TestSeparateV4V6":
        six = bool(case.get("v6", {}).get("CIDRs"))
        ranges = case.get("v4", {}).get("CIDRs", {}).get("args", [])
        ranges = ["*"] if case.get("v4", {}).get("IsWildcard") else ranges
        return Case(id=name, args=["-i", case["cidr"]], ranges=ranges, later="IPv6 rules" if six else None)
    if test.startswith("TestValidateOwnerGroups_"):
        groups = {"INCLUDE": owner_groups(case.get("include", "*")), "EXCLUDE": owner_groups(case.get("exclude", ""))}
        env = {VARIABLES[f"OwnerGroups{key.capitalize()}"]: value for key, value in groups.items()}
        later = None if groups == {"INCLUDE": "*", "EXCLUDE": ""} else "capture by owner group"
        return Case(id=name, env=env, later=later)
    if test.startswith("TestValidateIPv4LoopbackCidr_"):
        return Case(id=name, env={VARIABLES["HostIPv4LoopbackCidr"]: case["cidr"]}, accepted=test.endswith("_Valid"))
    if test == "TestValidateIptablesBinary":
        return Case(id=name, args=["--force-iptables-binary", case["input"]], accepted="expected" not in case)
    return Case(id=name, later="the program finds this out from the machine", refusable=False)


def whole_files() -> list[Case]:
    """Files of the folder that no runner reads: each is one id, which must be listed."""
    read = {
        "iptables_cases",
        "cni_annotation_cases",
        "config_cases",
        "config_validation_cases",
        "idempotence_scenarios",
    }
    names = sorted(path.stem for path in DATA.glob("*.json"))
    return [Case(id=f"interception/{name}", refusable=False) for name in names if name not in read]


def load(name: str) -> Any:
    """A file of the folder; a folder without it has no such cases."""
    path = DATA / name
    return json.loads(path.read_text()) if path.exists() else {"cases": [], "tables": [{"test": "", "cases": []}]}


def as_flag(flag: str, value: object) -> list[str]:
    """A switch carries its value after a sign, everything else in a word of its own."""
    return [f"{flag}={str(value).lower()}"] if isinstance(value, bool) else [flag, str(value)]


def owner_groups(value: str | dict[str, Any]) -> str:
    """`NOwnerGroups(n)` stands for `0,1,…,n-1`."""
    return value if isinstance(value, str) else ",".join(str(group) for group in range(value["args"][0]))


CASES = [*iptables_cases(), *cni_cases(), *config_cases(), *whole_files()] if DATA.is_dir() else []
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no conformance data at {CONFORMANCE.name}/interception")


@pytest.fixture(scope="session")
def init() -> Path:
    """The program under test: named by MESHDP_INIT, as installed, or the newest build."""
    named = os.environ.get("MESHDP_INIT")
    installed = ROOT / "src" / "meshdp" / "bin" / "meshdp-init"
    if named or installed.exists():
        return Path(named) if named else installed
    built = [*ROOT.glob("target/*/meshdp-init"), *ROOT.glob("target/*/*/meshdp-init")]
    if not built:
        pytest.fail("meshdp-init is not built: `cargo build -p meshdp-init`, or name it in MESHDP_INIT")
    return max(built, key=lambda path: path.stat().st_mtime)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_interception(case: Case, init: Path) -> None:
    """Runs one case and compares what it expects, or proves that it is refused before calling it unsupported."""
    run = subprocess.run(
        [init, "--dry-run", *case.args],
        env={"PATH": os.environ.get("PATH", "")} | case.env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if case.id in LISTED or case.later:
        skip_unsupported(case, run)
    assert (run.returncode == 0) == case.accepted, f"exit {run.returncode}: {run.stderr}"
    if case.ranges is not None:
        assert captured_ranges(run.stdout) == case.ranges
    elif case.golden is not None and case.id in WITHHELD and not case.golden.exists():
        pytest.skip(f"no expected output: this folder has no {case.golden.name}")
    elif case.golden is not None:
        assert tables(run.stdout) == tables(case.golden.read_text())
    elif case.accepted:
        assert run.stdout.startswith("* nat\n")
    else:
        assert run.returncode == 2
        assert run.stdout == ""


def skip_unsupported(case: Case, run: subprocess.CompletedProcess[str]) -> None:
    """A flag this milestone lacks must be refused by the program itself, never ignored."""
    if case.refusable:
        assert run.returncode == 2, "listed as unsupported, but the program accepts it"
        assert "M5" in run.stderr
        assert run.stdout == ""
    entry = LISTED.get(case.id, {"milestone": "M5", "reason": case.later or "no reason is listed"})
    pytest.skip(f"unsupported: {entry['milestone']}: {entry['reason']}")


def test_the_list_is_complete_and_names_nothing_that_works() -> None:
    """For the folder that is ours, the list holds exactly the cases this milestone lacks."""
    if "MESHDP_CONFORMANCE" in os.environ:
        pytest.skip("the list is kept for the shared folder")
    lacking = {case.id for case in CASES if case.later or case in whole_files()}
    scenarios = {name for name in LISTED if name.startswith("interception/idempotence/")}
    assert set(LISTED) - scenarios == lacking
    assert all(entry["reason"] and entry["milestone"] for entry in LISTED.values())


def test_a_difference_is_seen() -> None:
    """A test of the comparison: a swapped pair, a lost line and a lost table are all differences."""
    golden = "iptables-save\n* nat\n-N ISTIO_A\n-A OUTPUT -j ISTIO_A\nCOMMIT\n* raw\n-A OUTPUT -j CT\nCOMMIT\n"
    assert tables(golden) == [("nat", ["-N ISTIO_A", "-A OUTPUT -j ISTIO_A"]), ("raw", ["-A OUTPUT -j CT"])]
    swapped = golden.replace("-N ISTIO_A\n-A OUTPUT -j ISTIO_A", "-A OUTPUT -j ISTIO_A\n-N ISTIO_A")
    lost_table = golden.replace("* raw\n-A OUTPUT -j CT\nCOMMIT\n", "")
    for other in (swapped, golden.replace("-A OUTPUT -j ISTIO_A\n", ""), lost_table):
        assert tables(other) != tables(golden)


def tables(document: str) -> list[tuple[str, list[str]]]:
    """The tables of a document with their lines, in order; lines of other programs are dropped."""
    parts: list[tuple[str, list[str]]] = []
    for line in document.splitlines():
        if line.startswith("*"):
            parts.append((line.lstrip("* "), []))
        elif line.startswith("-"):
            parts[-1][1].append(line)
        else:
            assert line in {"", "COMMIT", "iptables-save", "ip6tables-save"}, f"unexpected line {line!r}"
    return parts


def captured_ranges(document: str) -> list[str]:
    """The destinations that are redirected to the proxy, in order."""
    lines = [line for _, lines in tables(document) for line in lines]
    ends = [line.removeprefix("-A ISTIO_OUTPUT ") for line in lines if line.endswith("-j ISTIO_REDIRECT")]
    return [end.split()[1] if end.startswith("-d ") else "*" for end in ends]
