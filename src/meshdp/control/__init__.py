"""The control plane: discovery, distribution, certificate authority."""
