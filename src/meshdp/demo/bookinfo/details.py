"""The details service: facts about a book."""

from __future__ import annotations

from web import Answer, Request, json_answer, serve  # type: ignore[import-not-found]  # beside this file

BOOK = {
    "id": 0,
    "title": "The Comedy of Errors",
    "author": "William Shakespeare",
    "year": 1595,
    "type": "paperback",
    "pages": 200,
    "publisher": "PublisherA",
    "language": "English",
    "ISBN-10": "1234567890",
}


def answer(request: Request) -> Answer | None:
    """Reads a book's facts; POST pretends to change them."""
    if not request.path.startswith("/details/"):
        return None
    return json_answer(BOOK if request.method == "GET" else {"changed": request.path})


if __name__ == "__main__":
    serve(answer)
