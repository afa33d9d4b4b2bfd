"""Policies under pytest: requests that a test writes down, judged by the data plane's own matcher.

    from meshdp.testing import assert_allowed, assert_denied

    def test_only_the_product_page_reads_details(request_as):
        assert_allowed(request_as("default/productpage").get("/details/0").to("details"))
        assert_denied(request_as("default/reviews").get("/details/0").to("details"), by="details-viewer")

`asking` holds requests and answers, `reached` which rules any test matched, `plugin` the fixtures (docs/authz.md), and
`strategies` requests for Hypothesis, which it alone imports. What stands below is imported when it is used: every
pytest run of a project that has meshdp installed imports this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshdp.testing.asking import Answer, Asking, Policies, assert_allowed, assert_denied

__all__ = ["Answer", "Asking", "Policies", "assert_allowed", "assert_denied"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from meshdp.testing import asking

    return getattr(asking, name)
