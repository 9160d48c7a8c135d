"""What answers is Cloud Storage, or the request has failed in passing.

A proxy or a hotel's network answers in its place: its login page with status 200, a redirect to
that, an error page. Google's client takes the page for an object's content, and half of a JSON for
a mistake of the program.
"""

from typing import Any

import requests
from requests.adapters import HTTPAdapter


class ForeignAnswerError(requests.ConnectionError):
    """Something between us and Cloud Storage has answered in its place."""


class GoogleAdapter(HTTPAdapter):
    """Sends requests for tokens, and raises `ForeignAnswerError` for foreign answers."""

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        """Send the request; the content of a download is not read here."""
        answer = super().send(request, *args, **kwargs)
        if self.is_foreign(request, answer):
            kind = answer.headers.get("Content-Type", "no type")
            answer.close()
            said = f"a {answer.status_code} of the type {kind}"
            raise ForeignAnswerError(said, request=request, response=answer)
        return answer

    def is_foreign(self, request: requests.PreparedRequest, answer: requests.Response) -> bool:
        """Tell whether that is no answer of Google's: it redirects nobody and shows no page."""
        return 300 <= answer.status_code < 400 or _is_page(answer)


class CloudStorageAdapter(GoogleAdapter):
    """The same for the requests of Cloud Storage's JSON API."""

    def is_foreign(self, request: requests.PreparedRequest, answer: requests.Response) -> bool:
        """Tell whether that is no answer of Cloud Storage's."""
        return _is_not_cloud_storage(request, answer)


def _is_page(answer: requests.Response) -> bool:
    return answer.content.lstrip().startswith(b"<")


def _is_not_cloud_storage(request: requests.PreparedRequest, answer: requests.Response) -> bool:
    status = answer.status_code
    if status == 308:  # of an upload that goes on
        return "Location" in answer.headers
    if 300 <= status < 400:
        return status != 304
    if status >= 400:  # in JSON, or one plain line
        return _is_page(answer)
    if "alt=media" in str(request.url):
        return "X-Goog-Generation" not in answer.headers
    if "Location" in answer.headers:  # an upload has begun
        return False
    content = answer.content.strip()
    if request.method == "DELETE" and not content:
        return False
    return not (content.startswith(b"{") and b'"storage#' in content and content.endswith(b"}"))
