"""The page's own files: a few static modules without a build step, served to everybody; the data asks for a key."""

import hashlib
from collections.abc import Mapping
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

from rayhaul.errors import NotFound

routes = APIRouter(include_in_schema=False)

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: Nothing from elsewhere, nothing inline: it works without the internet, and what a file name says is never run.
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


class _File:
    def __init__(self, name: str, content: bytes) -> None:
        self.content = content
        self.etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        # no-cache: kept, but asked for again each time, so that an upgrade is seen at once.
        self.headers = {"Content-Security-Policy": _CSP, "Cache-Control": "no-cache", "ETag": self.etag}
        self.media_type = _TYPES[f".{name.rpartition('.')[2]}"]

    def answer(self, request: Request) -> Response:
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=self.headers)
        return Response(self.content, media_type=self.media_type, headers=self.headers)


def _read() -> Mapping[str, _File]:
    found = files("serve_app").joinpath("page").iterdir()
    return {
        file.name: _File(file.name, file.read_bytes()) for file in found if f".{file.name.rpartition('.')[2]}" in _TYPES
    }


_FILES = _read()


@routes.get("/")
async def page(request: Request) -> Response:
    return _FILES["index.html"].answer(request)


@routes.get("/page/{name}")
async def page_file(request: Request, name: str) -> Response:
    """Raises: NotFound."""
    file = _FILES.get(name)
    if file is None:
        raise NotFound
    return file.answer(request)
