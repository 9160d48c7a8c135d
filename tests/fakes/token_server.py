"""Google's token endpoint on a loopback port, for servers that ask who somebody is."""

import json
import secrets
from pathlib import Path
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.fakes.wire import Delivery, HttpServer, Request, Response


class TokenServer:
    """The server, from `with` until its end. It gives tokens; what else is asked is for others."""

    def __init__(self) -> None:
        self._tokens: set[str] = set()

    def __enter__(self) -> "TokenServer":
        self._http = HttpServer(self._answer)
        self.url = self._http.url
        return self

    def __exit__(self, *_: object) -> None:
        self._http.stop()

    def environment(self, folder: Path) -> dict[str, str]:
        """Return what leads Google's client here, signed in as somebody."""
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        somebody = {
            "type": "service_account",
            "client_email": "admin@project.iam.gserviceaccount.com",
            "token_uri": f"{self.url}/token",
            "private_key": pem.decode(),
            "private_key_id": "0",
        }
        file = folder / "admin.json"
        file.write_text(json.dumps(somebody))
        return {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}

    def _answer(self, request: Request) -> tuple[Response, Delivery]:
        if request.method != "POST" or request.path != "/token":
            return Response(404), "whole"
        sent = parse_qs(request.body.decode())
        if sent["grant_type"] != ["urn:ietf:params:oauth:grant-type:jwt-bearer"]:
            return Response(400), "whole"
        assert sent["assertion"][0].count(".") == 2
        token = secrets.token_hex(8)
        self._tokens.add(token)
        content = {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}
        headers = [("Content-Type", "application/json")]
        return Response(200, headers, json.dumps(content).encode()), "whole"
