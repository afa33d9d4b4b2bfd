"""The ratings service: how many stars each reviewer gave."""

from __future__ import annotations

from web import Answer, Request, json_answer, serve  # type: ignore[import-not-found]  # beside this file

STARS = {"Reviewer1": 5, "Reviewer2": 4}


def answer(request: Request) -> Answer | None:
    """Reads a book's stars; POST pretends to add some."""
    if not request.path.startswith("/ratings/"):
        return None
    return json_answer({"id": 0, "ratings": STARS} if request.method == "GET" else {"changed": request.path})


if __name__ == "__main__":
    serve(answer)
