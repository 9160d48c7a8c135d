"""Google's IAM and its token endpoint on a loopback port, as far as keys of service accounts go.

    with IamServer() as server:
        server.add_account("runner@project.iam.gserviceaccount.com")
        environ = server.environment(folder)  # of somebody who may make its keys

Strict: an operation it does not know, or one without a token it gave, is refused.
"""

import base64
import json
import re
import secrets
import threading
from pathlib import Path
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.fakes.wire import Delivery, HttpServer, Request, Response

MARK = "canary"
"""Stands in every key that it makes."""

_KEYS = re.compile(r"/v1/projects/-/serviceAccounts/([^/]+)/keys(?:/([0-9a-f]+))?")


class IamServer:
    """The server, from `with` until its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[str, dict[str, str]] = {}
        self._tokens: set[str] = set()
        self._made = 0
        self.denied = False
        """Whether everybody lacks the permission."""

    def __enter__(self) -> "IamServer":
        self._http = HttpServer(self._answer)
        self.url = self._http.url
        return self

    def __exit__(self, *_: object) -> None:
        self._http.stop()

    def add_account(self, email: str) -> None:
        self._accounts[email] = {}

    def keys(self, email: str) -> list[str]:
        """Return the ids of an account's keys, the oldest first."""
        with self._lock:
            return list(self._accounts[email])

    def environment(self, folder: Path) -> dict[str, str]:
        """Return what leads Google's client here, signed in as an administrator."""
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        admin = {
            "type": "service_account",
            "client_email": "admin@project.iam.gserviceaccount.com",
            "token_uri": f"{self.url}/token",
            "private_key": pem.decode(),
            "private_key_id": "0",
        }
        file = folder / "admin.json"
        file.write_text(json.dumps(admin))
        return {
            "GOOGLE_APPLICATION_CREDENTIALS": str(file),
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_IAM": f"{self.url}/",
        }

    def _answer(self, request: Request) -> tuple[Response, Delivery]:
        if request.method == "POST" and request.path == "/token":
            return self._token(request), "whole"
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if given not in self._tokens:
            return _error(401, "Request had invalid authentication credentials."), "whole"
        if self.denied:
            return _error(403, "Permission 'iam.serviceAccountKeys.create' denied."), "whole"
        match = _KEYS.fullmatch(request.path)
        if match is None:
            return _error(400, f"Unknown: {request.method} {request.path}"), "whole"
        with self._lock:
            return self._keys(request, match[1], match[2]), "whole"

    def _token(self, request: Request) -> Response:
        sent = parse_qs(request.body.decode())
        if sent["grant_type"] != ["urn:ietf:params:oauth:grant-type:jwt-bearer"]:
            return _error(400, "unsupported_grant_type")
        assert sent["assertion"][0].count(".") == 2
        token = secrets.token_hex(8)
        self._tokens.add(token)
        return _json({"access_token": token, "expires_in": 3600, "token_type": "Bearer"})

    def _keys(self, request: Request, email: str, key_id: str | None) -> Response:
        if email not in self._accounts:
            return _error(404, f"Unknown service account: {email}")
        keys = self._accounts[email]
        if request.method == "POST" and key_id is None:
            if len(keys) == 10:
                return _error(400, "Precondition check failed.")
            self._made += 1
            key_id = f"{self._made:040x}"
            keys[key_id] = f"2026-11-21T10:00:{self._made:02d}Z"
            content = {
                "type": "service_account",
                "client_email": email,
                "private_key": f"-----BEGIN {MARK} {key_id}-----",
                "private_key_id": key_id,
            }
            data = base64.b64encode(json.dumps(content).encode()).decode()
            return _json({**_described(email, key_id, keys), "privateKeyData": data})
        if request.method == "GET" and key_id is None:
            return _json({"keys": [_described(email, each, keys) for each in reversed(keys)]})
        if request.method == "DELETE" and key_id is not None:
            if keys.pop(key_id, None) is None:
                return _error(404, "The service account key does not exist.")
            return _json({})
        return _error(400, f"Unknown: {request.method} {request.path}")


def _described(email: str, key_id: str, keys: dict[str, str]) -> dict[str, str]:
    name = f"projects/project/serviceAccounts/{email}/keys/{key_id}"
    return {"name": name, "validAfterTime": keys[key_id], "keyType": "USER_MANAGED"}


def _json(content: object, status: int = 200) -> Response:
    return Response(status, [("Content-Type", "application/json")], json.dumps(content).encode())


def _error(status: int, message: str) -> Response:
    return _json({"error": {"code": status, "message": message}}, status)
