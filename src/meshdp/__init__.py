"""meshdp: a service mesh in a wheel. Istio's YAML in, a Rust data plane out; `meshdp --help` is the way in."""

__version__ = "0.1.0"
