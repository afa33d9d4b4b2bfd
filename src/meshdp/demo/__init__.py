"""Bookinfo, and a guided walk through what a mesh does to it, each act judged by evidence from the running mesh."""
