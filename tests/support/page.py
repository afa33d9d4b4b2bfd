"""Reads a page of the documentation as a program: files to save, commands to run, answers to expect, in its order.

In:      Markdown. A fenced block of `yaml` is saved under the name that stands last in backquotes before it; each line of an `sh`
         block is a command, `# exit code N or M` says how it may end (0); a `text` block is what the last command prints.
Out:     `steps`: `Save` and `Run` in order. `matches`: whether an answer is the one shown.
Limits:  in what is shown `…` stands for anything within a line, a line of `…` alone for any lines; white space counts once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Save:
    """A file with its text."""

    name: str
    text: str


@dataclass(frozen=True)
class Run:
    """A command, how it may end, and what it prints (None: the page does not say)."""

    command: str
    codes: tuple[int, ...]
    shown: str | None = None


def steps(page: Path) -> Iterator[Save | Run]:
    """What the page does, in its order."""
    text = page.read_text()
    pending: Run | None = None
    end = 0
    for block in _BLOCK.finditer(text):
        before, (language, body) = text[end : block.start()], block.groups()
        end = block.end()
        if language == "text":
            assert pending is not None, f"{page.name}: an answer without a command: {body}"
            pending = Run(pending.command, pending.codes, body)
            continue
        if pending is not None:
            yield pending
            pending = None
        if language == "yaml":
            yield Save(re.findall(r"`([\w./-]+\.yaml)`", before)[-1], body)
        elif language == "sh":
            *first, pending = [_run(line) for line in body.splitlines() if line.strip()]
            yield from first
        else:
            raise AssertionError(f"{page.name}: a block of {language!r}")
    if pending is not None:
        yield pending


def matches(shown: str, said: str) -> bool:
    """Whether what was printed is what the page shows."""
    lines = [_line(line) for line in shown.strip().splitlines()]
    return re.fullmatch("".join(lines), _plain(said)) is not None


def _run(line: str) -> Run:
    command, _, comment = line.partition("  #")
    codes = re.findall(r"exit code ((?:\d+(?: or )?)+)", comment)
    return Run(command.strip(), tuple(int(code) for code in codes[0].split(" or ")) if codes else (0,))


def _line(line: str) -> str:
    if line.strip() == "…":
        return r"(?:[^\n]*\n)*?"
    pattern = re.escape(" ".join(line.split())).replace(r"\ ", " ")
    return re.sub(r" ?… ?", r"[^\\n]*", pattern) + r" ?\n"


def _plain(said: str) -> str:
    lines = [" ".join(line.split()) for line in said.strip().splitlines()]
    return "".join(f"{line}\n" for line in lines)


_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
