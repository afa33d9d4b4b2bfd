"""Boundary tests: the extension and the sidecar process from outside. They need the built extension, no root."""
