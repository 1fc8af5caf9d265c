"""What all methods of the client are made of: a request, its answer read as a model, paths that no id can steer."""

import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from rayhaul.client.endpoint import Endpoint, find_endpoint
from rayhaul.client.errors import ConnectionFailed, NotFound
from rayhaul.client.fields import request
from rayhaul.client.transport import Answer, Transport

Model = TypeVar("Model", bound=BaseModel)

#: A retry or two for a restarting replica, four for one that takes ten seconds.
RETRIES_MAX = 4

#: A cluster that is upgraded or restarted is back within this time; listening goes on meanwhile.
RECONNECT_S_MAX = 300.0

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Calls:
    """Part of AsyncClient: its connection, and how it asks."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 30,
        retries_max: int = RETRIES_MAX,
        reconnect_s_max: float = RECONNECT_S_MAX,
    ) -> None:
        self._http = Transport(find_endpoint(url, api_key), timeout_s=timeout_s, retries_max=retries_max)
        self._reconnect_s_max = reconnect_s_max

    @property
    def endpoint(self) -> Endpoint:
        return self._http.endpoint

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _post(self, path: str, model: type[BaseModel], **fields: Any) -> Answer:
        return await self._http.request("POST", path, body=request(model, fields).model_dump_json(by_alias=True))

    def _read(self, model: type[Model], answer: Answer) -> Model:
        try:
            return model.model_validate_json(answer.body)
        except ValidationError as err:
            raise ConnectionFailed(f"{self.endpoint.url} does not answer as Rayhaul does") from err


def checked_id(some_id: str) -> str:
    """Raises: NotFound, without asking, for what can be no id: a path must not be steered by one."""
    if not _ID.fullmatch(some_id):
        raise NotFound("not_found", 404, f"there is nothing with the id {some_id!r}")
    return some_id


def job_path(job_id: str, *rest: str) -> str:
    return "/".join(("/jobs", checked_id(job_id), *rest))


def agent_path(agent: str, *rest: str) -> str:
    return "/".join(("/agents", checked_id(agent), *rest))


def params_of(**asked: object) -> Mapping[str, str]:
    return {name: str(value) for name, value in asked.items() if value is not None}
