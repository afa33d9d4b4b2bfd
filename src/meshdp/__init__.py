"""A service mesh in a wheel: Istio's YAML in, intercepted and authorized traffic out."""
