"""Looking into running sidecars: what their engines have in force, as people and programs read it.

Reading order: sidecars (which ones, and how to ask them) → status (one row a sidecar) → configuration (the sections in
force become rows) → predicates (a rule's conditions in words).
"""
