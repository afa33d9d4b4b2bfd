"""The tests. Lanes: unit, property, conformance, boundary, e2e, attack (DESIGN section 9)."""
