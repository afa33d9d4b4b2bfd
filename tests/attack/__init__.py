"""The catalogue of attacks, thrown at real sidecars over real sockets."""
