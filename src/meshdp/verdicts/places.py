"""Finds the line of a field of a resource, which keeps only the line of its document.

In:     a resource as it was read from a file, and a path into its document.
Out:    `Where`.
Fails:  never: a file that has changed or gone since gives the place of the document.
"""

from __future__ import annotations

from pathlib import Path

from meshdp.documents import Path as FieldPath
from meshdp.documents import RawDocument, parse
from meshdp.errors import Where
from meshdp.resources import Resource
from meshdp.sources.files import read


class Places:
    """Reads a file again when the first of its fields is looked for."""

    def __init__(self) -> None:
        self._files: dict[str, dict[Where, RawDocument]] = {}

    def of(self, resource: Resource, path: FieldPath = ()) -> Where:
        """The line of a field, or of its nearest ancestor that is written."""
        file = resource.where.file
        if file not in self._files:
            text = read(Path(file))
            documents = parse(text, file)[0] if isinstance(text, bytes) else []
            self._files[file] = {document.where: document for document in documents}
        document = self._files[file].get(resource.where)
        return resource.where if document is None else Where(file, document.line_of(path))
