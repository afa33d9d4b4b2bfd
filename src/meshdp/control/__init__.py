"""The control plane. So far: authority (certificate requests become SPIFFE certificates)."""
