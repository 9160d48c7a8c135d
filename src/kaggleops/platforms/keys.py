"""Keys of the runner's service account, which may do nothing but use the bucket.

Asked of Google's IAM with the credentials of who runs the command, never with a runner's.
"""

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kaggleops.errors import KaggleOpsError

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# The variable by which gcloud itself is led elsewhere.
_ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_IAM"
_TIMEOUT = 30  # seconds


class CredentialsError(KaggleOpsError):
    """A key could not be made, put where it belongs, or taken away."""


@dataclass(frozen=True)
class Key:
    """A key as IAM lists it, without its secret part.

    Args:
        id: its id.
        created: when it was made, as IAM writes it (RFC 3339).
    """

    id: str
    created: str


class Keys:
    """The keys of one service account.

    Args:
        account: its email address.
    """

    def __init__(self, account: str) -> None:
        self.account = account
        endpoint = os.environ.get(_ENDPOINT) or "https://iam.googleapis.com/"
        self._url = f"{endpoint.rstrip('/')}/v1/projects/-/serviceAccounts/{account}/keys"
        self._connection: Any = None

    def create(self) -> tuple[str, dict[str, Any]]:
        """Make a key; return its id, and the content of its file.

        Raises:
            CredentialsError: IAM refused, or cannot be asked.
        """
        made = self._ask("creating a key", "POST", self._url, json={})
        content = json.loads(base64.b64decode(made["privateKeyData"]))
        return made["name"].rpartition("/")[2], content

    def list(self) -> list[Key]:
        """Return the keys that people made, the oldest first.

        Raises:
            CredentialsError: IAM refused, or cannot be asked.
        """
        found = self._ask("listing the keys", "GET", f"{self._url}?keyTypes=USER_MANAGED")
        keys = (
            Key(each["name"].rpartition("/")[2], each["validAfterTime"])
            for each in found.get("keys", [])
        )
        return sorted(keys, key=lambda key: (key.created, key.id))

    def delete(self, key_id: str) -> None:
        """Delete a key: whoever holds it is locked out. It is no error if it is gone already.

        Raises:
            CredentialsError: IAM refused, or cannot be asked.
        """
        self._ask(f"deleting key {key_id}", "DELETE", f"{self._url}/{key_id}", gone=True)

    def _ask(
        self, what: str, method: str, url: str, *, gone: bool = False, **request: Any
    ) -> Mapping[str, Any]:
        from google.auth import exceptions

        doing = f"{what} of {self.account}"
        try:
            answer = self._connected().request(method, url, timeout=_TIMEOUT, **request)
        except exceptions.DefaultCredentialsError:
            problem = "you are not signed in"
            raise CredentialsError(doing, problem, _LOGIN) from None
        except exceptions.RefreshError as error:
            problem = f"your sign-in is not accepted ({error.args[0]})"
            raise CredentialsError(doing, problem, _LOGIN) from None
        except (exceptions.TransportError, OSError) as error:
            raise CredentialsError(doing, f"IAM cannot be reached ({error})") from None
        if answer.ok or (gone and answer.status_code == 404):
            return answer.json() if answer.ok and answer.content else {}
        raise CredentialsError(doing, _message(answer), _hint(answer.status_code, self.account))

    def _connected(self) -> Any:
        if self._connection is None:
            import google.auth
            from google.auth.transport.requests import AuthorizedSession

            credentials, _ = google.auth.default(scopes=[_SCOPE])
            self._connection = AuthorizedSession(credentials)
        return self._connection


_LOGIN = "Run `gcloud auth application-default login`, and try again."


def _message(answer: Any) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"IAM answered {answer.status_code}"


def _hint(status: int, account: str) -> str:
    if status == 403:
        return f"Ask for the role roles/iam.serviceAccountKeyAdmin on {account}."
    if status == 404:
        return f"Check the account's name: is it {account}?"
    return ""
