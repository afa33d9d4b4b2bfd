"""Hours in minutes: mixed traffic with nonces through a mesh of `meshdp up` while everything around it changes.

In the test run: `pytest tests/soak` (a minute and a half). The long form: `python -m tests.soak --minutes 30 [--report FILE]`.

Reading order: server (the application) → load (its client, which counts what is lost and what is mixed up) → measure
(descriptors and memory) → run (the mesh, the changes, the report).
"""
