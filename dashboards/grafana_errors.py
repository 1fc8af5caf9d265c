"""What goes wrong with a Grafana, as one sentence each that says what to do."""

from collections.abc import Mapping

import requests
from grafana_api.grafana_api import GrafanaException

from rayhaul.errors import ServiceError

#: Longest wait for an answer.
TIMEOUT_S = 30.0
NOT_FOUND = 404

#: Status -> what to do about it.
_ADVICE = {
    400: "Grafana does not take it; is it older than Grafana 10?",
    401: "the token is not known there, or has expired: make one under Administration, Service accounts",
    403: "the token may not do that: its service account needs the role Editor, and Admin for a data source",
    NOT_FOUND: "no Grafana answers there like that: does the URL lack a path, or is it not Grafana's?",
    412: "somebody changed it at the same time: look at it, and publish again",
}


class PublishFailed(ServiceError):
    """In one sentence, with what to do."""

    code = "internal"


class Explained:
    """Makes of what goes wrong one sentence about what it was about."""

    def __init__(self, url: str, what: str) -> None:
        self._url, self._what = url, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, GrafanaException):
            said = error.response.get("message") if isinstance(error.response, Mapping) else None
            advice = _ADVICE.get(error.status_code, "see Grafana's log")
            raise PublishFailed(
                f"{self._what} could not be published: {error.status_code} from {self._url}"
                f"{f' ({said})' if said else ''}; {advice}"
            ) from error
        # TLS first: for requests it is a kind of connection error.
        if isinstance(error, requests.exceptions.SSLError):
            raise PublishFailed(
                f"{self._url} can not be trusted: its certificate is not from an authority known here, or for another "
                "name; --ca-file names the certificates to trust"
            ) from error
        if isinstance(error, requests.exceptions.Timeout):
            raise PublishFailed(f"{self._url} did not answer within {TIMEOUT_S:g} s") from error
        if isinstance(error, requests.exceptions.ConnectionError):
            raise PublishFailed(f"{self._url} can not be reached; is the URL right, and is it https there?") from error
        if isinstance(error, requests.exceptions.JSONDecodeError):
            raise PublishFailed(f"{self._url} answers, but not as Grafana's API does; {_ADVICE[NOT_FOUND]}") from error
