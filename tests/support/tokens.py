"""An issuer of tokens for tests: a key, tokens signed with it, and a server that hands its JWKS out.

In:     a side of the pair to serve in.
Out:    `Issuer`, `KeyServer`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.support.listening import Listening
from tests.support.pair import Side

Json = dict[str, Any]
URL = "https://issuer.example.com"


class Issuer:
    """A P-256 key under a name."""

    def __init__(self, key_id: str = "k1", url: str = URL) -> None:
        self.key_id = key_id
        self.url = url
        self._key = ec.generate_private_key(ec.SECP256R1())

    def jwk(self) -> Json:
        """The public key."""
        numbers = self._key.public_key().public_numbers()
        x, y = (encode(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.key_id, "x": x, "y": y}

    def jwks(self) -> str:
        """A set of this key alone."""
        return json.dumps({"keys": [self.jwk()]})

    def token(self, header: Json | None = None, **claims: Any) -> str:
        """A token about alice that ends in an hour; claims and header members replace those."""
        payload = {"iss": self.url, "sub": "alice", "exp": int(time.time()) + 3600} | claims
        named = {"alg": "ES256", "kid": self.key_id} | (header or {})
        return self.sign(json.dumps(named).encode(), json.dumps(payload).encode())

    def sign(self, header: bytes, payload: bytes) -> str:
        """A token over any bytes."""
        signed = f"{encode(header)}.{encode(payload)}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def authentication(rules: list[Json], policy: str = "") -> str:
    """A RequestAuthentication for the server, and what stands beside it."""
    meta = {"name": "tokens", "namespace": "default"}
    spec = {"selector": {"matchLabels": {"app": "server"}}, "jwtRules": rules}
    document = {"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication", "metadata": meta, "spec": spec}
    return f"{json.dumps(document)}\n---\n{policy}" if policy else f"{json.dumps(document)}\n"


class KeyServer(Listening):
    """Serves a text to whoever asks, and counts."""

    def __init__(self, side: Side, port: int, body: str) -> None:
        self.body = body
        self.asked = 0
        super().__init__(side, [port])

    def _admit(self, accepted: socket.socket, peer: tuple[str, int]) -> Callable[[], None]:
        return partial(self._serve, accepted)

    def _serve(self, accepted: socket.socket) -> None:
        with accepted, contextlib.suppress(OSError):
            accepted.settimeout(5)
            accepted.recv(65536)
            self.asked += 1
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self.body)}\r\n\r\n"
            accepted.sendall((head + self.body).encode())
