"""Which operation a request asks for, and who asks. All else is refused."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from email.utils import formatdate
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from kagglesdk.blobs.types import blob_api_service as blob_types
from kagglesdk.competitions.types import competition_api_service as competition_types
from kagglesdk.datasets.types import dataset_api_service as dataset_types
from kagglesdk.kernels.types import kernels_api_service as kernel_types
from kagglesdk.models.types import model_api_service as model_types
from kagglesdk.security.types import oauth_service as security_types

from tests.fakes.kaggle import blobs
from tests.fakes.kaggle.blobs import Blobs
from tests.fakes.kaggle.competitions import Competitions
from tests.fakes.kaggle.datasets import Datasets
from tests.fakes.kaggle.downloads import Downloads, hashes
from tests.fakes.kaggle.kernels import Kernels
from tests.fakes.kaggle.messages import checked, json_response, parse
from tests.fakes.kaggle.pushing import Pushing
from tests.fakes.kaggle.store import ApiError, Store, User, bad_request
from tests.fakes.wire import Request, Response, ranged

_CALL = re.compile(r"/api/v1/([a-z]+\.\w+)/(\w+)")
_LIVE_LOG = re.compile(r"/api/v1/kernels/logs/stream/[^/]+/[^/]+")
_OUTPUT = re.compile(r"/output/([0-9a-f]+)/.+")

Answer = Callable[[Request], Response]


class Router:
    """Finds the operation for a request.

    Args:
        store: what there is.
        pushing: answers pushes.
        kernels: answers everything else about notebooks.
        datasets: answers requests about datasets.
        competitions: answers requests about competitions.
        downloads: leads to the files of all of them.
    """

    def __init__(
        self,
        store: Store,
        pushing: Pushing,
        kernels: Kernels,
        datasets: Datasets,
        competitions: Competitions,
        downloads: Downloads,
    ) -> None:
        self._store = store
        self._kernels = kernels
        self._blobs = Blobs(store)
        self._calls: dict[str, Answer] = {}
        self._add(
            "kernels.KernelsApiService",
            kernel_types,
            SaveKernel=pushing.save,
            GetKernel=kernels.get,
            ListKernels=kernels.list,
            GetKernelSessionStatus=kernels.status,
            ListKernelSessionOutput=kernels.output,
            ListKernelFiles=kernels.files,
            CancelKernelSession=kernels.cancel,
            DeleteKernel=kernels.delete,
            GetAcceleratorQuotaStatistics=kernels.quota,
        )
        self._add("blobs.BlobApiService", blob_types, StartBlobUpload=self._blobs.start)
        self._add(
            "datasets.DatasetApiService",
            dataset_types,
            CreateDataset=datasets.create,
            CreateDatasetVersion=datasets.create_version,
            GetDataset=datasets.get,
            GetDatasetStatus=datasets.status,
            ListDatasets=datasets.list,
            ListDatasetFiles=datasets.files,
            DeleteDataset=datasets.delete,
            DownloadDataset=downloads.dataset,
        )
        self._add(
            "competitions.CompetitionApiService",
            competition_types,
            StartSubmissionUpload=self._blobs.start_submission,
            CreateSubmission=competitions.submit,
            CreateCodeSubmission=competitions.submit_code,
            ListSubmissions=competitions.submissions,
            GetSubmissionLimits=competitions.limits,
            GetLeaderboard=competitions.leaderboard,
            ListDataFiles=downloads.list_data_files,
            DownloadDataFile=downloads.data_file,
        )
        self._add(
            "models.ModelApiService",
            model_types,
            ListModelInstanceVersionFiles=downloads.list_model_files,
            DownloadModelInstanceVersion=downloads.model_file,
        )
        self._calls["security.OAuthService/IntrospectToken"] = self._introspect

    def _add(
        self,
        service: str,
        types: ModuleType,
        **methods: Callable[[User, Any], Mapping[str, Any] | Response],
    ) -> None:
        for name, method in methods.items():
            asked = getattr(types, f"Api{name}Request")
            answered = getattr(types, _RESPONSES.get(name, f"Api{name}Response"), None)

            def answer(
                request: Request, asked: Any = asked, answered: Any = answered, method: Any = method
            ) -> Response:
                user = self._user(request)
                content = method(user, parse(asked, request.body))
                if isinstance(content, Response):  # which leads elsewhere
                    return content
                return json_response(checked(answered, content))

            self._calls[f"{service}/{name}"] = answer

    def route(self, request: Request) -> Answer:
        """Return what answers the request, and note in it which operation it is.

        Raises:
            ApiError: there is no such operation.
        """
        host = request.headers.get("Host", "")
        if host not in ("localhost", urlsplit(self._store.url).netloc):
            raise ApiError(502, f"This is no proxy for {host}")
        if request.query:
            raise bad_request(f"Unknown parameters: {sorted(request.query)}")
        if match := _CALL.fullmatch(request.path):
            call = self._calls.get("/".join(match.groups()))
            if call and request.method == "POST":
                request.op = match[2]
                return call
        if request.method == "GET" and _LIVE_LOG.fullmatch(request.path):
            request.op = "live log"
            return lambda request: self._kernels.live_log(self._user(request), request)
        if request.method == "GET" and _OUTPUT.fullmatch(request.path):
            request.op = "output file"
            return self._download
        if request.method == "PUT" and blobs.PATH.fullmatch(request.path):
            request.op = "upload"
            return self._blobs.receive
        raise ApiError(404, f"No such operation: {request.method} {request.path}")

    def _user(self, request: Request) -> User:
        """Return who asks.

        Raises:
            ApiError: nobody whom the service knows.
        """
        kind, _, value = request.headers.get("Authorization", "").partition(" ")
        for user in self._store.users.values():
            if (kind == "Bearer" and value == user.token) or (
                kind == "Basic" and _decoded(value) == f"{user.name}:{user.key}"
            ):
                return user
        raise ApiError(401, "Unauthenticated")

    def _introspect(self, request: Request) -> Response:
        asked = parse(security_types.IntrospectTokenRequest, request.body)
        for user in self._store.users.values():
            if asked.token == user.token:
                return json_response({"active": True, "username": user.name})
        return json_response({"active": False})

    def _download(self, request: Request) -> Response:
        # A signed address of Cloud Storage: whoever knows it may read, and errors are XML.
        match = _OUTPUT.fullmatch(request.path)
        path = self._store.downloads.get(match[1] if match else "")
        if isinstance(path, bytes):
            return ranged(request, [hashes(path)], path)
        if path is None or not path.is_file():
            raise ApiError(403, "Access denied.")
        modified = formatdate(path.stat().st_mtime, usegmt=True)
        kind = ("Content-Type", "application/octet-stream")
        return Response(200, [kind, ("Last-Modified", modified)], path.read_bytes())


_RESPONSES = {
    "CreateDatasetVersion": "ApiCreateDatasetResponse",
    "GetDataset": "ApiDataset",
    "GetSubmissionLimits": "ApiSubmissionLimits",
}
"""Types of answers that are not named after their method."""


def _decoded(value: str) -> str:
    try:
        return base64.b64decode(value).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
