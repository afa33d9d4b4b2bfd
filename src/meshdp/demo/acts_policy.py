"""The acts on authorization, and the page that all of it is for.

In:      a `Stage`. Out: claims, in the order in which they are told; an act holds when all of them do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from meshdp.demo.acts import DETAILS, PAGE, VISITOR, Claim
from meshdp.demo.stage import Reply, Stage, Wanted, wait_for

DENIED = "RBAC: access denied"
BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.5",
}
PAGE_LOADS = 24


def deny_all(stage: Stage) -> Iterator[Claim]:
    """One policy without rules, and nobody may do anything."""
    stage.apply("7-deny-all")
    for url in (DETAILS, "http://reviews:9080/reviews/0", "http://ratings:9080/ratings/0"):
        yield _denied(f"product page may not GET {url}", stage.get(PAGE, url))


def details_viewer(stage: Stage) -> Iterator[Claim]:
    """Product page may GET /details/*; all else is refused, and the log says by which policy."""
    stage.apply("8-details-viewer")
    before = len(stage.sidecar_log("details-v1"))
    allowed, posted, pinged = stage.send(
        PAGE, Wanted(DETAILS), Wanted(DETAILS, "POST"), Wanted("http://details:9080/ping")
    )
    yield Claim("product page may GET /details/0", allowed.status == 200, str(allowed))
    yield _denied("product page may not POST /details/0", posted)
    yield _denied("product page may not GET /ping", pinged)
    for other in ("reviews-v1", "ratings-v1"):
        yield _denied(f"the service account of {other} may not GET /details/0", stage.get(other, DETAILS))
    lines = wait_for(lambda: _naming(stage.sidecar_log("details-v1")[before:], "details-viewer", "403"))
    yield Claim("the access log names the policy", bool(lines), lines[0] if lines else "no line with 403 names it")
    found = _policies(stage.admin("details-v1", "/config"))
    yield Claim("the admin port names the policy", "details-viewer" in found, f"/config: policies {found}")


def product_page(stage: Stage) -> Iterator[Claim]:
    """A browser outside the mesh loads the page; every service behind it is allowed exactly what it needs."""
    stage.apply("9-least-privilege")
    wanted = Wanted("http://productpage:9080/productpage", headers=BROWSER)
    pages = stage.send(VISITOR, *[wanted] * PAGE_LOADS)
    good = [
        page for page in pages if page.status == 200 and page.headers.get("content-type", "").startswith("text/html")
    ]
    yield Claim("the page loads as HTML, every time", len(good) == len(pages), f"{len(good)} of {len(pages)}")
    html = [page.body for page in good]
    details = bool(html) and all("<dt>author</dt><dd>William Shakespeare</dd>" in text for text in html)
    yield Claim("it shows the details", details, _between(html, '<section id="details">', "</section>"))
    reviews = bool(html) and all("The slapstick humour is refreshing!" in text for text in html)
    yield Claim("it shows the reviews", reviews, _between(html, "<blockquote>", "</blockquote>"))
    stars = [text for text in html if 'data-stars="5"' in text and 'data-stars="4"' in text]
    yield Claim("it shows the ratings", bool(stars), _between(stars, "<span ", "</span>"))
    versions = sorted({found for text in html for found in re.findall(r"Reviews served by: (v[123])", text)})
    yield Claim("all three versions of reviews take part", versions == ["v1", "v2", "v3"], f"seen: {versions}")
    kept = stage.get(VISITOR, DETAILS)
    yield Claim("and the visitor still gets nothing else", kept.status == 0, str(kept))


def _denied(text: str, reply: Reply) -> Claim:
    return Claim(text, reply.status == 403 and reply.body.strip() == DENIED, str(reply))


def _naming(log: str, policy: str, status: str) -> list[str]:
    return [line for line in log.splitlines() if policy in line and status in line]


def _policies(config: object) -> list[str]:
    """Every name in the `authz` section, wherever the admin answer holds it."""
    text = json.dumps(config)
    return sorted(set(re.findall(r'"name": "([a-z0-9-]+)", "namespace": "default", "rules"', text))) or sorted(
        name for name in ("details-viewer", "deny-all") if f'"{name}"' in text
    )


def _between(pages: list[str], start: str, end: str) -> str:
    """A piece of the first page, without its tags."""
    if not pages or start not in pages[0]:
        return "not in the page"
    piece = pages[0].split(start, 1)[1].split(end, 1)[0]
    return " ".join(re.sub(r"<[^>]*>|[a-z-]+=\"[^\"]*\">?", " ", piece).split())[:110]
