"""The reference path normaliser: Istio's modes, written from the observed vectors.

In:     a request target in origin form.  Out: the target that policy sees and that is forwarded; None when refused.
Source: spec/istio-observed.md 8; conformance/behaviour-e2e/path_normalization_e2e_cases.json.
"""

from __future__ import annotations

import re

_UNRESERVED = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ENCODED = set('{}"|^<>`')


def normalize(target: str, mode: str) -> str | None:
    """Normalises the path, keeps the query, cuts the fragment."""
    target = target.partition("#")[0]
    path, mark, query = target.partition("?")
    if any(ord(char) > 0x7F for char in target):
        return None
    if mode == "NONE":
        return target
    if "%00" in path or not path.startswith("/"):
        return None
    if mode == "DECODE_AND_MERGE_SLASHES":
        path = re.sub(r"%(2[fF]|5[cC])", lambda found: chr(int(found[1], 16)), path)
    path = re.sub(r"%([0-9A-Fa-f]{2})?", _decoded, path)
    path = path.replace("\\", "/")
    path = "".join(f"%{ord(char):02X}" if char in _ENCODED else char for char in path)
    path = _without_dots(path)
    if mode != "BASE":
        path = re.sub("/+", "/", path)
    return path + mark + query


def _decoded(found: re.Match[str]) -> str:
    if found[1] is None:
        return "%25"
    char = chr(int(found[1], 16))
    return char if char in _UNRESERVED else found[0]


def _without_dots(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:]
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        bare = segment.partition(";")[0] if segment.startswith("..;") else segment
        if bare in (".", ".."):
            if bare == ".." and kept:
                kept.pop()
            if last:
                kept.append("")
        else:
            kept.append(segment)
    return "/" + "/".join(kept)
