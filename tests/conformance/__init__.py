"""Conformance: cases of ../shared/conformance through the real compiler and the real matcher."""
