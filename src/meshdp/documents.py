"""Turns YAML text into raw documents that remember their lines.

In:     the text of one file (`parse`), from `meshdp.sources` and commands.
Out:    `RawDocument`, read by `meshdp.resources.decode`; findings for what is not a document.
Limits: 16 MiB of text, 50,000 documents, 100 levels, 100 findings a document; aliases may add 50,000 values to what the
        text itself can hold.
Fails:  never raises for bad text: each broken document is one finding and leaves its neighbours alone.
Source: YAML 1.1 as kubectl reads it (booleans on/no), less its traps: dates, sexagesimal numbers, duplicate keys.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import yaml

from meshdp.errors import Finding, Where

SIZE_LIMIT_BYTES = 16 * 1024 * 1024
DOCUMENTS_LIMIT = 50_000
ALIASED_NODES_LIMIT = 50_000
DEPTH_LIMIT = 100
FINDINGS_LIMIT = 100

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class RawDocument:
    """One Kubernetes-shaped object as written. Null fields are absent, as Kubernetes treats them."""

    where: Where
    api_version: str
    kind: str
    data: dict[str, Any]
    _node: yaml.Node = field(repr=False, compare=False)
    _offset: int = field(default=0, repr=False, compare=False)

    def line_of(self, path: Path) -> int:
        """The line of the field at `path`, or of its nearest ancestor that is written."""
        node, line = self._node, self.where.line
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            line, node = found[0] + self._offset, found[1]
        return line


def parse(text: str | bytes, file: str) -> tuple[list[RawDocument], list[Finding]]:
    """Reads every document of one file; a `List` counts as its items."""
    documents: list[RawDocument] = []
    findings: list[Finding] = []
    decoded = _text(text, file)
    if isinstance(decoded, Finding):
        return [], [decoded]
    for first_line, piece in _pieces(decoded):
        reader = _Reader(file, first_line)
        documents.extend(reader.read(piece))
        findings.extend(reader.findings)
    return documents, findings


def embedded(raw: RawDocument, path: Path) -> tuple[RawDocument | None, list[Finding]]:
    """Reads the YAML that stands as a block string inside a document (a ConfigMap's value)."""
    text: Any = raw.data
    for step in path:
        text = text[step]
    first_line = raw.line_of(path)
    reader = _Reader(raw.where.file, first_line)
    data, node = reader.value(str(text))
    if reader.findings:
        return None, reader.findings
    where = Where(raw.where.file, first_line)
    if not isinstance(data, dict) or node is None:
        return None, [Finding.of("MDP0104", where, "", "", "expected a mapping")]
    return RawDocument(where, raw.api_version, raw.kind, data, node, first_line), []


def _text(text: str | bytes, file: str) -> str | Finding:
    start = Where(file, 1)
    if len(text) > SIZE_LIMIT_BYTES:
        return Finding.of("MDP0103", start, "", "", f"the file is larger than {SIZE_LIMIT_BYTES} bytes")
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            return Finding.of("MDP0105", Where(file, line), "", "", f"not UTF-8 at byte {error.start}")
    text = text.removeprefix("\ufeff")
    bad = _UNPRINTABLE.search(text)
    if bad is not None:
        line = text.count("\n", 0, bad.start()) + 1
        return Finding.of("MDP0105", Where(file, line), "", "", f"control character {bad.group()!r} in the text")
    if any(islice(_SEPARATOR.finditer(text), DOCUMENTS_LIMIT, None)):
        return Finding.of("MDP0103", start, "", "", f"the file holds more than {DOCUMENTS_LIMIT} documents")
    return text


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Cuts a stream at its `---` lines, so that one broken document cannot hide the next."""
    cuts = [0, *(found.start() for found in _SEPARATOR.finditer(text) if found.start() > 0), len(text)]
    line = 0
    for start, end in pairwise(cuts):
        piece = text[start:end]
        if not _BLANK.fullmatch(piece):
            yield line, piece
        line += piece.count("\n")


class _Reader:
    """Builds the objects of one piece; collects what is wrong with it."""

    def __init__(self, file: str, offset: int) -> None:
        self.file = file
        self.offset = offset
        self.findings: list[Finding] = []
        self._nodes_left = 0

    def read(self, piece: str) -> list[RawDocument]:
        data, node = self.value(piece)
        if data is None or node is None or self.findings:  # a duplicate key leaves it open what was meant
            return []
        try:
            return list(self._objects(node, data))
        except _Unusable as error:
            self._refuse(error.code, error.mark, str(error))
        return []

    def value(self, text: str) -> tuple[Any, yaml.Node | None]:
        """Reads the one value of a text; None and findings when there is none."""
        self._nodes_left = ALIASED_NODES_LIMIT + len(text)  # a value takes a character at least
        try:
            _check_depth(text)
            node = yaml.compose(text, Loader=_Loader)
            return (None, None) if node is None else (self._build(node, 0), node)
        except yaml.MarkedYAMLError as error:
            self._refuse("MDP0101", error.problem_mark, " ".join(filter(None, (error.context, error.problem))))
        except (yaml.YAMLError, RecursionError) as error:
            self._refuse("MDP0101", None, str(error))
        except _Unusable as error:
            self._refuse(error.code, error.mark, str(error))
        return None, None

    def _objects(self, node: yaml.Node, data: Any) -> Iterator[RawDocument]:
        if not isinstance(data, dict):
            raise _Unusable("MDP0104", node.start_mark, "expected a mapping with apiVersion and kind")
        kind, api_version = data.get("kind"), data.get("apiVersion")
        if not isinstance(kind, str) or not isinstance(api_version, str) or not kind or not api_version:
            raise _Unusable("MDP0104", node.start_mark, "expected apiVersion and kind, both strings")
        if kind.endswith("List") and isinstance(data.get("items"), list):
            items = _child(node, "items")
            for index, item in enumerate(data["items"]):
                child = _child(items[1], index) if items else None
                yield from self._objects(child[1] if child else node, item)
            return
        where = Where(self.file, node.start_mark.line + 1 + self.offset)
        yield RawDocument(where, api_version, kind, data, node, self.offset)

    def _build(self, node: yaml.Node, depth: int) -> Any:
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise _Unusable("MDP0103", node.start_mark, f"aliases stand for more than {ALIASED_NODES_LIMIT} values")
        if depth > DEPTH_LIMIT:
            raise _Unusable("MDP0103", node.start_mark, f"nested more than {DEPTH_LIMIT} levels")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(child, depth + 1) for child in node.value]
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        built: dict[str, Any] = {}
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = _key(key_node)
            line = key_node.start_mark.line + 1 + self.offset
            if key in seen:
                if len(self.findings) >= FINDINGS_LIMIT:
                    raise _Unusable("MDP0102", key_node.start_mark, f"key {key!r} is not new either; more may follow")
                self._refuse("MDP0102", key_node.start_mark, f"key {key!r} stands on line {seen[key]} already")
            seen[key] = line
            value = self._build(value_node, depth + 1)
            if value is not None:
                built[key] = value
        return built

    def _refuse(self, code: str, mark: Any, message: str) -> None:
        line = mark.line + 1 if mark is not None else 1
        self.findings.append(Finding.of(code, Where(self.file, line + self.offset), "", "", message))


class _Unusable(Exception):
    """Well-formed YAML that cannot become an object."""

    def __init__(self, code: str, mark: Any, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.mark = mark


def _check_depth(text: str) -> None:
    """Refuses deep nesting before the composer, which calls itself for each level, can run out of stack over it."""
    if text.count("[") + text.count("{") < DEPTH_LIMIT // 2 and _INDENTED.search(text) is None:
        return  # such a text cannot be deep: a bracket for each level, or a column for each two
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_LIMIT + 1:
                raise _Unusable("MDP0103", event.start_mark, f"nested more than {DEPTH_LIMIT} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _Unusable("MDP0106", node.start_mark, "a key must be a string")
    if node.tag == "tag:yaml.org,2002:merge":
        raise _Unusable("MDP0106", node.start_mark, "merge keys (<<) are not read; write the fields out")
    if node.tag == "tag:yaml.org,2002:bool":
        return "true" if _scalar(node) else "false"
    if node.tag == "tag:yaml.org,2002:null":
        raise _Unusable("MDP0106", node.start_mark, "a key must not be null")
    return str(node.value)


def _scalar(node: yaml.Node) -> Any:
    text = str(node.value)
    try:
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() in ("yes", "true", "on")
            case "int":
                return _integer(text)
            case "float":
                return _finite(text)
    except ValueError as error:
        raise _Unusable("MDP0106", node.start_mark, f"{text!r} is not a number that JSON can carry") from error
    raise _Unusable("MDP0106", node.start_mark, f"tag {node.tag} is not accepted")


def _integer(text: str) -> int:
    plain = text.replace("_", "")
    sign, digits = (-1, plain[1:]) if plain.startswith("-") else (1, plain.removeprefix("+"))
    if len(digits) > 20:
        raise ValueError(text)
    if len(digits) > 1 and digits[0] == "0" and digits[1] not in "xXbBoO":
        return sign * int(digits, 8)
    return sign * int(digits, 0)


def _finite(text: str) -> float:
    value = float(text.replace("_", ""))
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _child(node: yaml.Node, step: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == step:
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        child = node.value[step]
        return child.start_mark.line + 1, child
    return None


_CLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_CLoader):  # type: ignore[misc]
    """The C loader with a resolver that knows no dates, no base 60 and no `1e3` strings."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}


_RESOLVERS = (
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    ("int", r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:[0-9][0-9_]*)?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*\.(?:[eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
)
for _name, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})\\Z"), list(_first))

_SEPARATOR = re.compile(r"^---(?=\s|\Z)", re.MULTILINE)
# Possessive: a repetition that may be taken back remembers every step, gigabytes for a file of blank lines.
_BLANK = re.compile(r"(?:---)?(?:[ \t]*+(?:#[^\n]*+)?\r?\n|%[^\n]*+\n|\.\.\.[ \t]*+\n)*+[ \t]*+(?:#[^\n]*+)?")
_INDENTED = re.compile(rf"^[ ?:\-]{{{DEPTH_LIMIT // 4}}}", re.MULTILINE)
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
