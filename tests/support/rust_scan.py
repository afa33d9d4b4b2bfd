"""Finds functions in Rust text by scanning: strings and comments are blanked, then brackets are counted.

Out:    name, line, length and number of parameters of each function with a body.
"""

import re
from collections.abc import Iterator

Function = tuple[str, int, int, int]  # name, line, lines, parameters without self


def functions(text: str) -> Iterator[Function]:
    plain = blanked(text)
    for found in re.finditer(r"\bfn\s+(\w+)\s*(?=[<(])", plain):
        opening = found.end() if plain[found.end()] == "(" else plain.index("(", after_generics(plain, found.end()))
        after_parameters = closing(plain, opening, "(", ")")
        parameters = count_parameters(plain[opening + 1 : after_parameters - 1])
        brace, semicolon = plain.find("{", after_parameters), plain.find(";", after_parameters)
        if brace == -1 or (semicolon != -1 and semicolon < brace):
            continue  # a declaration in a trait
        end = closing(plain, brace, "{", "}")
        line = plain.count("\n", 0, found.start()) + 1
        yield found[1], line, plain.count("\n", found.start(), end) + 1, parameters


def after_generics(text: str, start: int) -> int:
    """The offset after the `>` that closes the `<` at `start`; the one of an arrow does not count."""
    depth = 0
    for offset in range(start, len(text)):
        depth += (text[offset] == "<") - (text[offset] == ">" and text[offset - 1] != "-")
        if depth == 0:
            return offset + 1
    return len(text)


def closing(text: str, start: int, opener: str, closer: str) -> int:
    """The offset after the bracket that closes the one at `start`."""
    depth = 0
    for offset in range(start, len(text)):
        depth += (text[offset] == opener) - (text[offset] == closer)
        if depth == 0:
            return offset + 1
    return len(text)


def count_parameters(text: str) -> int:
    """Parameters of a Rust signature without the receiver: each has one colon outside of any bracket."""
    depth, count = 0, 0
    for before, this, after in zip(" " + text, text, text[1:] + " ", strict=False):
        depth += (this in "(<[{") - (this in ")]}" or (this == ">" and before != "-"))
        count += this == ":" and depth == 0 and ":" not in (before, after)
    return count - bool(re.match(r"\s*(?:mut\s+)?self\s*:", text))


def blanked(text: str) -> str:
    """Rust with comments, strings and character literals replaced by spaces; lines stay where they are."""
    return RUST_OPAQUE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


RUST_OPAQUE = re.compile(
    r"""//[^\n]* | /\*.*?\*/
    | b?r(?P<hashes>\#*)"(?:.*?)"(?P=hashes) | [bc]?"(?:\\.|[^"\\])*" | b?'(?:\\[^\n]{1,8}?|[^'\\\n])'""",
    re.DOTALL | re.VERBOSE,
)


def without_inline_tests(text: str) -> list[str]:
    """The lines before `#[cfg(test)] mod tests {`; tests stand last in a file."""
    return re.split(r"^#\[cfg\(test\)\]\s*mod \w+ \{", text, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
