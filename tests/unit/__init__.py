"""Unit tests: mirror src/meshdp."""
