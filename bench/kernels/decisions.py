# cython: language_level=3, boundscheck=False, wraparound=False
"""The two kernels of a request, as good Python for the interpreter and for Cython: read a head, decide by a policy.

In:     bytes of a head; the identity, method and path of a request and a list of rules.
Out:    a parsed head, or None where it breaks a rule; whether a request is let in.
Limits: the rules that the sidecar's own parser checks, without its messages. A benchmark: nothing of meshdp calls this.
Source: RFC 9112 3 to 6; spec/istio-semantics.md D.3.
"""

import cython

METHODS = frozenset([b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"])
TOKEN = bytes(chr(byte).isalnum() or chr(byte) in "!#$%&'*+-.^_`|~" for byte in range(128)) + bytes(128)
VALUE = bytes(byte == 9 or 32 <= byte != 127 for byte in range(256))
HOP_BY_HOP = frozenset([b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"])


def all_of(text: bytes, table: bytes) -> bool:
    """Whether every byte is allowed by a table."""
    index: cython.Py_ssize_t
    byte: cython.uchar
    for index in range(len(text)):
        byte = text[index]
        if not table[byte]:
            return False
    return True


def parse_head(buffer: bytes):
    """Method, target, fields (name in lower case, value) and body length of a whole head; None when it is not one."""
    end: cython.Py_ssize_t = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = buffer[:end].split(b"\r\n")
    first = lines[0].split(b" ")
    if len(first) != 3 or first[2] != b"HTTP/1.1" or first[0] not in METHODS:
        return None
    target: bytes = first[1]
    if not target.startswith(b"/") or not all_of(target, VALUE) or b"\t" in target:
        return None
    fields = []
    listed = set()
    hosts: cython.int = 0
    length = None
    chunked = False
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not name or not all_of(name, TOKEN) or not all_of(value, VALUE):
            return None
        name = name.lower()
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            if length is not None or not value.isdigit():
                return None
            length = int(value)
        elif name == b"transfer-encoding":
            if chunked or value.lower() != b"chunked":
                return None
            chunked = True
        elif name == b"connection":
            listed.update(option.strip().lower() for option in value.split(b","))
        fields.append((name, value))
    if hosts != 1 or (chunked and length is not None):
        return None
    kept = [field for field in fields if field[0] not in listed and field[0] not in HOP_BY_HOP]
    return first[0], target, kept, length


def decide(rules, principal: bytes, method: bytes, path: bytes) -> bool:
    """Whether one of the rules (principals, methods, paths with `*` at either end) lets a request in."""
    for principals, methods, paths in rules:
        if principals and principal not in principals:
            continue
        if methods and method not in methods:
            continue
        for wanted in paths:
            if wanted.endswith(b"*"):
                if path.startswith(wanted[:-1]):
                    return True
            elif wanted.startswith(b"*"):
                if path.endswith(wanted[1:]):
                    return True
            elif path == wanted:
                return True
    return False
