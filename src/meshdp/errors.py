"""Names for what can be wrong: places, findings with stable codes, and the exceptions of the Python half.

In:     used by every stage of the configuration flow.
Out:    `Finding` for bad documents (collected), `MeshdpError` for a command that cannot go on (raised), `printable` for
        every text that a document chose and a terminal shows.
Fails:  an unknown code is a bug and raises KeyError at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, order=True)
class Where:
    """A place in a file; `line` counts from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of one document: where, in which object and field, and what to do.

    object: "AuthorizationPolicy default/details-viewer", empty when the document names none.
    path: "spec.rules[0].from[0].source.principals[1]", empty for the document as a whole.
    """

    code: str
    severity: Severity
    where: Where
    object: str
    path: str
    message: str
    hint: str

    @classmethod
    def of(cls, code: str, where: Where, object_: str, path: str, message: str) -> Finding:
        """Makes a finding with the severity and the cure of its code."""
        row = CODES[code]
        return cls(code, row.severity, where, object_, path, message, row.cure)

    def as_dict(self) -> dict[str, str | int]:
        """Shapes the finding for `-o json`; keys are stable."""
        return {
            "code": self.code,
            "severity": self.severity,
            "title": CODES[self.code].title,
            "file": self.where.file,
            "line": self.where.line,
            "object": self.object,
            "path": self.path,
            "message": self.message,
            "hint": self.hint,
        }

    def __str__(self) -> str:
        subject = " ".join(part for part in (self.object, self.path) if part)
        said = f"{self.where}: {self.severity} {self.code}: {subject + ': ' if subject else ''}{self.message}"
        return printable(said)  # names and values come from documents, and this goes to terminals


def printable(text: str) -> str:
    """The text on one line, without what a terminal would act on: that stands as `\\x1b` or `\\u202e`."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class MeshdpError(Exception):
    """A command or process cannot go on; `exit_code` follows DESIGN 4.5."""

    code = "MDP0001"
    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Refused(MeshdpError):
    """Documents with errors: what they asked for is not put in force."""

    code = "MDP0002"


class UsageError(MeshdpError):
    """The command line or a settings file asks for something that does not exist."""

    code = "MDP0003"
    exit_code = 2


class Unreachable(MeshdpError):
    """Something this command talks to does not answer."""

    code = "MDP0004"
    exit_code = 3


@dataclass(frozen=True, slots=True)
class Code:
    """One row of the table of findings: shown by the hint page and by `meshdp check`."""

    title: str
    severity: Severity
    cure: str


CODES: dict[str, Code] = {
    # documents
    "MDP0101": Code("broken YAML", "error", "Correct the syntax at this line; the other documents are not affected."),
    "MDP0102": Code("duplicate key", "error", "Keep one of the two; YAML readers disagree about which one wins."),
    "MDP0103": Code("document too large", "error", "Split the file, or write repeated parts out without anchors."),
    "MDP0104": Code("not a Kubernetes object", "error", "A document is a mapping with apiVersion, kind and metadata."),
    "MDP0105": Code("not text", "error", "Save the file as UTF-8 text."),
    "MDP0106": Code("value YAML cannot carry", "error", "Quote the value, or write a plain number, string or boolean."),
    "MDP0107": Code("not readable", "error", "Make it readable; until then what it said last stays in force."),
    "MDP0108": Code(
        "file empty or cut off",
        "error",
        "Write it whole. To say less, remove the file, replace it by a rename, or leave a comment in its place.",
    ),
    # decoding
    "MDP0201": Code("unknown field", "error", "Correct the spelling or remove the field; nothing is silently dropped."),
    "MDP0202": Code("wrong type", "error", "Write the value in the expected type (quote it if it is a string)."),
    "MDP0203": Code("missing field", "error", "Add the field."),
    "MDP0204": Code("value not accepted", "error", "Use one of the accepted values."),
    "MDP0205": Code("bad name", "error", "Names are lower-case letters, digits, '-' and '.', at most 253 characters."),
    "MDP0206": Code("duplicate object", "error", "Keep one of the two, or give one another name or namespace."),
    "MDP0207": Code("unknown kind", "error", "Check kind and apiVersion; this API group has no such kind."),
    # security
    "MDP0301": Code("policy not accepted", "error", "Correct it; until then it denies for the workloads it selects."),
    "MDP0302": Code(
        "condition not honoured yet", "warning", "An ALLOW rule with it never matches, a DENY rule matches without it."
    ),
    "MDP0303": Code("CUSTOM not honoured before M4", "warning", "Until then its rules deny what they match."),
    "MDP0305": Code("policy without effect", "warning", "Remove it, or change the field that is named."),
    "MDP0330": Code(
        "no key for tokens",
        "warning",
        "Until there is one, tokens of this issuer are refused; those without a token pass.",
    ),
    # security: what `meshdp authz check` finds in what policies do
    "MDP0350": Code("rule never matches", "warning", "Correct what contradicts itself, or remove the rule."),
    "MDP0351": Code("value never matches", "warning", "Write the value as requests have it."),
    "MDP0352": Code(
        "ALLOW denies all TCP",
        "warning",
        "Add a rule without HTTP fields for the TCP ports, or select workloads that have none.",
    ),
    "MDP0353": Code(
        "DENY wider on TCP",
        "warning",
        "Add ports to the rule, so that it concerns HTTP ports alone, or select workloads without TCP ports.",
    ),
    "MDP0354": Code("host without port", "warning", "List the host with its port too, or with ':*' after it."),
    "MDP0355": Code(
        "token condition without RequestAuthentication",
        "warning",
        "Add a RequestAuthentication that selects the same workloads, or remove the condition.",
    ),
    "MDP0356": Code(
        "identity where plaintext is accepted",
        "warning",
        "Demand mutual TLS of the workload: PeerAuthentication with mode STRICT.",
    ),
    "MDP0357": Code("duplicate rule", "warning", "Keep one of the two."),
    "MDP0358": Code("shadowed rule", "warning", "Remove it, or narrow the rule that covers it."),
    # TLS towards services
    "MDP0380": Code(
        "DestinationRule not accepted",
        "error",
        "Correct it; until then nothing is sent to its host if it asks for TLS.",
    ),
    "MDP0381": Code(
        "TLS that cannot be honoured", "warning", "Name files instead; connections to its host are refused."
    ),
    "MDP0382": Code("server not verified", "warning", "Remove insecureSkipVerify and name the server's authority."),
    # traffic
    "MDP0401": Code("kind not honoured yet", "warning", "Traffic behaves as if the document were absent."),
    "MDP0402": Code("field not honoured yet", "warning", "Traffic behaves as if the field were absent."),
}
