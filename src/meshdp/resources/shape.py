"""Checks plain data against a msgspec struct and reports every deviation, not only the first.

In:     data of a raw document and the struct type it should have, from `decode` and from the readers of our own kinds.
Out:    the struct, or problems with field path and the nearest known name.
Limits: recursion follows the struct types and the document's own depth limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

import msgspec
from msgspec import inspect

from meshdp.documents import Path, RawDocument
from meshdp.errors import Finding

T = TypeVar("T", bound="Shape | LooseShape")


class Shape(msgspec.Struct, frozen=True, rename="camel"):
    """A piece of a document whose fields are all known: anything else is an error."""


class LooseShape(msgspec.Struct, frozen=True, rename="camel"):
    """A piece of a Kubernetes object of which only some fields concern a mesh.

    PASSED_OVER: the names of the other fields; empty passes over any name.
    """

    PASSED_OVER: ClassVar[frozenset[str]] = frozenset()


def replace(struct: T, **changes: Any) -> T:
    """A copy of the struct with other field values."""
    return msgspec.structs.replace(struct, **changes)


@dataclass(frozen=True, slots=True)
class Problem:
    """One deviation, before it is bound to a document."""

    code: str
    path: Path
    message: str


def read(raw: RawDocument, path: Path, type_: type[T]) -> tuple[T | None, list[Problem]]:
    """Converts what stands at `path` (absent counts as empty) to `type_`."""
    data: Any = raw.data
    for step in path:
        data = data.get(step, {}) if isinstance(data, dict) else data
    kind: type = type_
    problems = list(_check(data, _type_of(kind), path))
    if problems:
        return None, problems
    return msgspec.convert(data, type_), []


def finding(raw: RawDocument, problem: Problem, object_: str) -> Finding:
    """Binds a problem to its file, line and object."""
    where = type(raw.where)(raw.where.file, raw.line_of(problem.path))
    return Finding.of(problem.code, where, object_, dotted(problem.path), problem.message)


def dotted(path: Path) -> str:
    """Writes ("spec", "rules", 0, "from") as "spec.rules[0].from"."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif "." in step or "/" in step:
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def nearest(name: str, known: list[str]) -> str:
    """A sentence that names the most similar of the known names, or lists them."""
    import difflib  # 0.2 MB for which a sidecar of sound documents has no use

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(sorted(known)[:16])


def _check(data: Any, type_: inspect.Type, path: Path) -> Iterator[Problem]:
    match type_:
        case inspect.StructType():
            yield from _check_struct(data, type_, path)
        case inspect.ListType() | inspect.VarTupleType():
            yield from _check_list(data, type_.item_type, path)
        case inspect.DictType():
            yield from _check_dict(data, type_.value_type, path)
        case inspect.UnionType():
            yield from _check_union(data, type_, path)
        case inspect.LiteralType():
            if data not in type_.values:
                choices = ", ".join(str(value) for value in type_.values)
                yield Problem("MDP0204", path, f"{data!r} is not one of {choices}")
        case _:
            if not _is_scalar(data, type_):
                yield Problem("MDP0202", path, f"expected {_name(type_)}, found {_found(data)}")


def _check_struct(data: Any, type_: inspect.StructType, path: Path) -> Iterator[Problem]:
    if not isinstance(data, dict):
        yield Problem("MDP0202", path, f"expected a mapping, found {_found(data)}")
        return
    fields = _fields(type_.cls)
    for key, value in data.items():
        if key in fields:
            yield from _check(value, fields[key].type, (*path, key))
        elif not _passes_over(type_.cls, key):
            known = [*fields, *getattr(type_.cls, "PASSED_OVER", ())]
            yield Problem("MDP0201", (*path, key), f"unknown field {key!r}: {nearest(key, known)}")
    for name, field in fields.items():
        if field.required and name not in data:
            yield Problem("MDP0203", path, f"field {name!r} is missing")


def _passes_over(cls: type, name: str) -> bool:
    return issubclass(cls, LooseShape) and (not cls.PASSED_OVER or name in cls.PASSED_OVER)


def _check_list(data: Any, item: inspect.Type, path: Path) -> Iterator[Problem]:
    if not isinstance(data, list):
        yield Problem("MDP0202", path, f"expected a list, found {_found(data)}")
        return
    for index, element in enumerate(data):
        yield from _check(element, item, (*path, index))


def _check_dict(data: Any, value_type: inspect.Type, path: Path) -> Iterator[Problem]:
    if not isinstance(data, dict):
        yield Problem("MDP0202", path, f"expected a mapping, found {_found(data)}")
        return
    for key, value in data.items():
        yield from _check(value, value_type, (*path, key))


def _check_union(data: Any, type_: inspect.UnionType, path: Path) -> Iterator[Problem]:
    scalars = [option for option in type_.types if not isinstance(option, inspect.NoneType)]
    if len(scalars) == 1:
        yield from _check(data, scalars[0], path)
    elif not any(_is_scalar(data, option) for option in scalars):
        names = " or ".join(_name(option) for option in scalars)
        yield Problem("MDP0202", path, f"expected {names}, found {_found(data)}")


def _is_scalar(data: Any, type_: inspect.Type) -> bool:
    match type_:
        case inspect.AnyType():
            return True
        case inspect.BoolType():
            return isinstance(data, bool)
        case inspect.IntType():
            return isinstance(data, int) and not isinstance(data, bool)
        case inspect.FloatType():
            return isinstance(data, (int, float)) and not isinstance(data, bool)
        case inspect.StrType():
            return isinstance(data, str)
    raise TypeError(f"{type_} is not used in resource types")


def _name(type_: inspect.Type) -> str:
    names = {inspect.BoolType: "true or false", inspect.IntType: "an integer", inspect.StrType: "a string"}
    return names.get(type(type_), "a number")


def _found(data: Any) -> str:
    match data:
        case bool():
            return f"the boolean {str(data).lower()} (YAML reads yes, no, on, off as booleans)"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case None:
            return "null"
        case str():
            return f"the string {data[:60]!r}"
    return f"the number {data!r}"


@cache
def _type_of(cls: type) -> inspect.Type:
    return inspect.type_info(cls)


@cache
def _fields(cls: type) -> dict[str, inspect.Field]:
    info = _type_of(cls)
    assert isinstance(info, inspect.StructType)
    return {field.encode_name: field for field in info.fields}
