"""A mesh on one machine: a LocalMesh file becomes namespaces, sidecars, applications and the feed between them.

Reading order, which is the order of the data:
mesh_file (the file becomes instances) → addresses → configuration (documents and instances become snapshots) →
hosts and translation (how names and virtual addresses are reached) → isolation/ (where each instance lives, and how
programs get in) → feed (configuration and certificates for sidecars) → unit (one instance's life) →
mesh (all of it together) → logs (which stay within bounds) → state (what others know of it) →
background and report (how commands speak).
"""
