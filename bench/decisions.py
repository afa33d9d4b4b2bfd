"""What a decision costs as policies grow: nanoseconds with 1 to 10,000 rules in the forms that are hard.

In:     `python -m bench.decisions [--profile release] [--rules 10,1000] [FORM…]`, from the root of a checkout.
Out:    a table: form × rules, nanoseconds of a decision on a known connection, and the ratio of 1,000 rules to ten.
Limits: no rule matches, so that none can end the search; the fastest of twenty parts counts.
Source: DESIGN section 5: the cost follows the request, not the number of policies.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meshdp.compiler import Workload, compile_inbound
from meshdp.resources import load

ROOT = Path(__file__).resolve().parents[1]
RULES = (1, 10, 100, 1000, 10_000)
CALLER = "cluster.local/ns/default/sa/caller"
COUNT = 20_000

Rule = dict[str, Any]


def _to(**fields: list[str]) -> Rule:
    return {"to": [{"operation": fields}]}


def _from(**fields: list[str]) -> Rule:
    return {"from": [{"source": fields}]}


# Each makes rule N of a policy; the request below matches none.
FORMS: dict[str, tuple[str, Callable[[int], Rule]]] = {
    "exact principals, others'": ("ALLOW", lambda n: _from(principals=[f"cluster.local/ns/default/sa/other-{n}"])),
    "namespaces (patterns), others'": ("ALLOW", lambda n: _from(namespaces=[f"other-{n}"])),
    "one principal in every rule": ("ALLOW", lambda n: _from(principals=[CALLER]) | _to(paths=[f"/other/{n}"])),
    "path prefixes": ("ALLOW", lambda n: _to(paths=[f"/other-{n}/*"])),
    "path suffixes": ("ALLOW", lambda n: _to(paths=[f"*/other-{n}"])),
    "path templates": ("ALLOW", lambda n: _to(paths=[f"/other-{n}/{{*}}/x"])),
    "methods and principals of everybody": (
        "ALLOW",
        lambda n: _from(principals=["*"]) | _to(methods=["GET"], hosts=[f"h{n}"]),
    ),
    "notPaths that hold the path": ("DENY", lambda n: _to(notPaths=["/api/*", f"/other-{n}/*"])),
    "notPrincipals that hold the caller": (
        "DENY",
        lambda n: _from(notPrincipals=[CALLER, f"cluster.local/ns/x/sa/{n}"]),
    ),
    "one header, other values": (
        "ALLOW",
        lambda n: {"when": [{"key": "request.headers[x-user]", "values": [f"user-{n}"]}]},
    ),
    "headers of every rule's own": (
        "ALLOW",
        lambda n: {"when": [{"key": f"request.headers[x-{n % 50}]", "values": [f"user-{n}"]}]},
    ),
    "header prefixes": ("DENY", lambda n: {"when": [{"key": "request.headers[x-user]", "values": [f"user-{n}*"]}]}),
}  # fmt: skip
REQUEST = ("GET", "/api/v1/items/7", "x-user", "jason", "user-agent", "bench", "x-request-id", "7")


def snapshot(form: str, rules: int) -> bytes:
    """The transaction with so many rules of a form."""
    action, rule = FORMS[form]
    spec = {"action": action, "rules": [rule(number) for number in range(rules)]}
    metadata = {"name": "p", "namespace": "default"}
    document = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec}
    loaded = load([("p.yaml", json.dumps(document))])
    assert not loaded.errors, loaded.errors
    workload = Workload("w", "default", "w", {"app": "w"}, ("10.2.0.1",))
    return compile_inbound(loaded.resources, workload).transaction(None)


def measure(program: Path, form: str, rules: int) -> dict[str, Any]:
    """One cell: the verdict and its cost."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(snapshot(form, rules))
        file.flush()
        words = [program, file.name, str(COUNT), f"spiffe://{CALLER}", *REQUEST]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    expected = FORMS[form][0] == "DENY"  # a DENY rule that does not match lets through
    assert found["allowed"] is expected, (form, rules, found)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="release", help="of Cargo.toml")
    parser.add_argument("--rules", default=",".join(map(str, RULES)), help="numbers of rules")
    parser.add_argument("forms", nargs="*", metavar="FORM", help="those whose names hold the word")
    args = parser.parse_args()
    build = ["cargo", "build", "--locked", "--package", "meshdp-bench", "--bin", "decisions", "--profile", args.profile]
    subprocess.run(build, cwd=ROOT, check=True)
    program = ROOT / "target" / args.profile / "decisions"
    counts = [int(word) for word in args.rules.split(",")]
    chosen = [form for form in FORMS if not args.forms or any(word in form for word in args.forms)]
    print("| form | " + " | ".join(f"{count:,}" for count in counts) + " | 1,000 / 10 |")
    print("|---|" + "---:|" * (len(counts) + 1))
    for form in chosen:
        cells = {count: measure(program, form, count)["decision_ns"] for count in counts}
        ratio = f"{cells[1000] / cells[10]:.1f}" if {10, 1000} <= cells.keys() else "-"
        print(f"| {form} | " + " | ".join(f"{cells[count]:,.0f}" for count in counts) + f" | {ratio} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
