"""A mesh on one machine: a LocalMesh file becomes namespaces, sidecars, applications and the feed between them."""
