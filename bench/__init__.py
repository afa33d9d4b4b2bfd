"""Measuring tools; `bench/README.md` says how to use them."""
