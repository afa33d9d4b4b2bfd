"""The product page: HTML put together from details and reviews."""

from __future__ import annotations

from html import escape

from web import Answer, Request, call, json_answer, serve  # type: ignore[import-not-found]  # beside this file

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem }}
h1 {{ font-weight: 600 }} section {{ display: inline-block; vertical-align: top; width: 48%; min-width: 18rem }}
dt {{ color: #777 }} dd {{ margin: 0 0 .4rem }}
blockquote {{ margin: 0 0 1rem; padding-left: 1rem; border-left: 3px solid #ddd }}
.black {{ color: #222 }} .red {{ color: #c33 }} .error {{ color: #c33 }} footer {{ color: #777; font-size: .85rem }}
</style></head><body>
<h1>{title}</h1>
<section id="details"><h2>Book details</h2>{details}</section>
<section id="reviews"><h2>Book reviews</h2>{reviews}</section>
<footer>Reviews served by: {version}</footer>
</body></html>
"""


def answer(request: Request) -> Answer | None:
    """The page for people, and what it is made of for programs."""
    if request.path == "/":
        return Answer('<!doctype html><a href="/productpage">The product page</a>\n', "text/html; charset=utf-8")
    if request.path.startswith("/api/v1/products"):
        return json_answer([{"id": 0, "title": "The Comedy of Errors"}])
    if not request.path.startswith("/productpage"):
        return None
    details = call("details", "/details/0", request)
    reviews = call("reviews", "/reviews/0", request)
    title = details.get("title", "") if isinstance(details, dict) else "The Comedy of Errors"
    version = reviews.get("version", "") if isinstance(reviews, dict) else "nobody"
    page = PAGE.format(
        title=escape(title), details=_details(details), reviews=_reviews(reviews), version=escape(version)
    )
    return Answer(page, "text/html; charset=utf-8")


def _details(details: object) -> str:
    if not isinstance(details, dict):
        return '<p class="error">Sorry, product details are currently unavailable for this book.</p>'
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in details.items())
    return f"<dl>{rows}</dl>"


def _reviews(reviews: object) -> str:
    if not isinstance(reviews, dict):
        return '<p class="error">Sorry, product reviews are currently unavailable for this book.</p>'
    return "".join(
        f"<blockquote>{escape(each['text'])}<br>{_stars(each.get('rating'))}<small>{escape(each['reviewer'])}</small></blockquote>"
        for each in reviews["reviews"]
    )


def _stars(rating: object) -> str:
    if not isinstance(rating, dict):
        return ""
    if "error" in rating:
        return f'<span class="error">{escape(rating["error"])}</span> '
    stars = int(rating["stars"])
    return f'<span class="{escape(rating["color"])}" data-stars="{stars}">{"★" * stars}{"☆" * (5 - stars)}</span> '


if __name__ == "__main__":
    serve(answer)
