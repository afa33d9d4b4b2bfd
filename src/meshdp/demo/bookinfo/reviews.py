"""The reviews service. Version 1 shows no stars, version 2 black ones, version 3 red ones, both asked from ratings."""

from __future__ import annotations

import os

from web import Answer, Request, call, json_answer, serve  # type: ignore[import-not-found]  # beside this file

VERSION = os.environ.get("SERVICE_VERSION", "v1")
COLOR = {"v2": "black", "v3": "red"}.get(VERSION)
REVIEWS = (
    ("Reviewer1", "An extremely entertaining play. The slapstick humour is refreshing!"),
    ("Reviewer2", "Absolutely fun and entertaining. The play lacks thematic depth when compared to others."),
)


def answer(request: Request) -> Answer | None:
    """A book's reviews, with stars where this version shows them."""
    if not request.path.startswith("/reviews/"):
        return None
    reviews = [{"reviewer": reviewer, "text": text, **_rating(reviewer, request)} for reviewer, text in REVIEWS]
    return json_answer({"id": 0, "version": VERSION, "reviews": reviews})


def _rating(reviewer: str, request: Request) -> dict[str, object]:
    if COLOR is None:
        return {}
    found = call("ratings", "/ratings/0", request)
    if not isinstance(found, dict):
        return {"rating": {"error": "Ratings service is currently unavailable"}}
    return {"rating": {"stars": found["ratings"][reviewer], "color": COLOR}}


if __name__ == "__main__":
    serve(answer)
