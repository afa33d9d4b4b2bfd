"""What several lanes share: the reference evaluators and the readers of the conformance data."""
