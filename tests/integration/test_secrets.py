"""Secrets go in at every place that takes text, and are looked for in all that comes out: answers, events, log lines.

The origin here is malicious: it echoes what it was sent, and lies, wherever a library might quote it.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from inprocess import Service, quick_settings, running_service
from pydantic import SecretStr

from rayhaul.job import FINAL, JobStatus
from rayhaul.log import JsonFormatter
from rayhaul.settings import Settings, WebhookSettings
from serve_app.seaweed import Seaweed

#: In every secret that this file makes; log_watch looks for it in all lines of the session besides.
MARK = "tell-nobody"
USER_INFO = f"me:{MARK}-password"
QUERY = f"X-Amz-Credential=id&X-Amz-Signature={MARK}-signature&token={MARK}-token"
HEADERS = {
    "Authorization": f"Bearer {MARK}-bearer",
    "Cookie": f"session={MARK}-cookie; other={MARK}-cookie",
    "X-Api-Key": f"{MARK}-api-key",
}


class Heard(logging.Handler):
    """The lines of this test, as production formats them, without knowing the secrets."""

    def __init__(self) -> None:
        super().__init__()
        self.formatter = JsonFormatter("agent")
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def heard() -> Iterator[Heard]:
    heard = Heard()
    logging.getLogger().addHandler(heard)
    yield heard
    logging.getLogger().removeHandler(heard)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer as the path says, with all that was sent in the place where it hurts."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    path = head.split(" ")[1]
    sent = " ".join(head.split()).replace("\r", "")
    host = next(line for line in head.split("\r\n") if line.lower().startswith("host:")).split(" ")[1]
    again = f"http://{USER_INFO}@{host}/round?{QUERY}"
    away = f"{USER_INFO}@10.1.2.3/there?{QUERY}"
    answers = {
        "/refused": f"HTTP/1.1 403 {sent}\r\nContent-Length: {len(sent)}\r\n\r\n{sent}",
        "/failed": f"HTTP/1.1 500 {sent}\r\nContent-Length: 0\r\n\r\n",
        "/nonsense": f"{sent}\r\n\r\n",
        "/status": f"HTTP/1.1 abc {sent}\r\n\r\n",
        "/header": f"HTTP/1.1 200 OK\r\n{sent}\x00: x\r\n\r\n",
        "/length": f"HTTP/1.1 200 OK\r\nContent-Length: {sent}\r\n\r\n",
        "/away": f"HTTP/1.1 302 Found\r\nLocation: http://{away}\r\nContent-Length: 0\r\n\r\n",
        "/scheme": f"HTTP/1.1 302 Found\r\nLocation: ftp://{away}\r\nContent-Length: 0\r\n\r\n",
        "/place": f"HTTP/1.1 302 Found\r\nLocation: http://[{away}\r\nContent-Length: 0\r\n\r\n",
        "/round": f"HTTP/1.1 302 Found\r\nLocation: {again}\r\nContent-Length: 0\r\n\r\n",
        "/cut": "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
    }
    found = answers.get(path.partition("?")[0], 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: "1"\r\n\r\nbody')
    writer.write(found.encode("latin-1"))
    await writer.drain()
    writer.close()


PATHS = ("refused", "failed", "nonsense", "status", "header", "length", "away", "scheme", "place", "round", "cut", "ok")


@asynccontextmanager
async def origin_and_service(tmp_path: Path, settings: Settings) -> AsyncIterator[tuple[int, Service]]:
    async with running_service(tmp_path, settings) as service:
        server = await asyncio.start_server(_echo, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1], service


def settings_of(store: Seaweed, tmp_path: Path, **changes: Any) -> Settings:
    s3 = store.settings.model_copy(update={"prefix": f"{tmp_path.name}/", **changes})
    webhook = WebhookSettings(attempts_max=1)
    return quick_settings(s3, webhook=webhook)


class Asking:
    """The API, with all its answers kept."""

    def __init__(self, service: Service, session: aiohttp.ClientSession) -> None:
        self._service = service
        self._session = session
        self.answers: list[str] = []

    async def ask(self, method: str, path: str, *, key: str | None = None, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {key or self._service.alice}", **more.pop("headers", {})}
        async with self._session.request(method, self._service.url + path, headers=headers, **more) as answer:
            text = await answer.text()
            self.answers.append(f"{answer.status} {dict(answer.headers)} {text}")
            return json.loads(text) if text.startswith(("{", "[")) else text

    async def until_over(self, job_id: str) -> str:
        async with asyncio.timeout(60):
            while (status := (await self.ask("GET", f"/jobs/{job_id}"))["status"]) not in FINAL:
                await asyncio.sleep(0.1)
        return str(status)

    async def ask_all_about(self, job_id: str, *, is_final: bool = True) -> None:
        # The stream of a job that goes on would not end.
        for path in ("", "/history", *(["/events"] if is_final else [])):
            await self.ask("GET", f"/jobs/{job_id}{path}")
        operator = self._service.operator
        await self.ask("GET", f"/internal/jobs/{job_id}/state", key=operator)
        for path in ("/jobs", "/dlq", "/queue", "/agents", "/hosts", "/metrics", "/keys", "/logs", "/openapi.json"):
            await self.ask("GET", path, key=operator)


def assert_silent(said: list[str], *secrets: str) -> None:
    for secret in (MARK, *secrets):
        found = [text[max(0, text.find(secret) - 300) :][:400] for text in said if secret in text]
        assert not found, found[:3]


async def test_secrets_of_jobs(store: Seaweed, tmp_path: Path, heard: Heard) -> None:
    """User info, signatures, headers and webhook tokens of jobs; the origin sends them back in every way it can."""
    async with (
        origin_and_service(tmp_path, settings_of(store, tmp_path)) as (port, service),
        aiohttp.ClientSession() as session,
    ):
        asking = Asking(service, session)
        ids = {}
        for path in PATHS:
            body = {
                "url": f"http://{USER_INFO}@127.0.0.1:{port}/{path}?{QUERY}#{MARK}",
                "mirrors": [f"http://{USER_INFO}@127.0.0.1:{port}/{path}?{QUERY}"],
                "headers": HEADERS,
                "webhook": f"http://127.0.0.1:1/hook/?{QUERY}",
                "refreshWebhook": f"http://127.0.0.1:1/refresh?{QUERY}",
            }
            ids[path] = (await asking.ask("POST", "/jobs", json=body))["id"]
        ends = {path: await asking.until_over(job_id) for path, job_id in ids.items()}
        assert {path for path, status in ends.items() if status == JobStatus.COMPLETED} == {"ok"}
        for job_id in ids.values():
            await asking.ask_all_about(job_id)
        async with asyncio.timeout(20):
            while sum("webhook" in line and "given up" in line for line in heard.lines) < len(PATHS):
                await asyncio.sleep(0.1)
    assert len([line for line in heard.lines if '"jobId"' in line]) > 2 * len(PATHS)
    assert_silent(asking.answers)
    assert_silent(heard.lines, service.alice, service.operator)


async def test_secrets_in_wrong_places(store: Seaweed, tmp_path: Path, heard: Heard) -> None:
    """Keys and secrets where they do not belong: none comes back in a problem, none is logged."""
    async with (
        origin_and_service(tmp_path, settings_of(store, tmp_path)) as (port, service),
        aiohttp.ClientSession() as session,
    ):
        asking = Asking(service, session)
        key, good = service.alice, f"http://127.0.0.1:{port}/ok"
        for path in (f"/jobs/{key}", f"/{key}", f"/jobs?cursor={key}", f"/jobs?limit={key}", f"/{MARK}/{MARK}?{MARK}"):
            for method in ("GET", "DELETE", "BREW"):
                await asking.ask(method, path)
        bodies: list[Any] = [
            {"url": f"ftp://{USER_INFO}@h/{MARK}?{QUERY}"},
            {"url": f"http://{USER_INFO}@10.0.0.1/?{QUERY}"},
            {"url": f"http://{USER_INFO}@[bad/?{QUERY}"},
            {"url": f"http://{USER_INFO}@h:99999/?{QUERY}"},
            {"url": f"http://{MARK}\n.example/"},
            {"url": good, "webhook": f"http://{USER_INFO}@10.0.0.1/?{QUERY}"},
            {"url": good, "mirrors": [f"ftp://{USER_INFO}@h/?{QUERY}"]},
            {"url": good, "apiKey": key},
            {"url": good, "headers": {"Authorization": f"{MARK}\n{MARK}"}},
            {"url": good, "headers": {"Host": MARK}},
            {"url": good, "headers": f"Authorization: {MARK}"},
            {"url": good, "checksum": f"sha256:{MARK}"},
            {"url": good, "priority": MARK},
            {"url": good, "notBefore": MARK},
            [MARK],
            MARK,
        ]
        for body in bodies:
            await asking.ask("POST", "/jobs", json=body)
            await asking.ask("POST", "/jobs/batch", json={"jobs": [body]})
        await asking.ask("POST", "/jobs", data=f'{{"url": "{good}", "{MARK}')
        for authorization in (f"Basic {MARK}", MARK, f"Bearer {MARK}", f"Bearer {key[:-1]}", f"Bearer {key}x"):
            await asking.ask("GET", "/jobs", headers={"Authorization": authorization})
        statuses = {text.split(" ")[0] for text in asking.answers}
        assert statuses >= {"401", "404", "405", "422"}
        assert not statuses & {"200", "201", "500"}
    assert_silent(asking.answers, key)
    assert_silent(heard.lines, key)


async def test_secrets_of_the_bucket(store: Seaweed, tmp_path: Path, heard: Heard) -> None:
    """A bucket that refuses us: neither its key nor a signature is told, at any level."""
    settings = settings_of(store, tmp_path, secret_access_key=SecretStr(f"{MARK}-s3-secret"))
    async with origin_and_service(tmp_path, settings) as (port, service), aiohttp.ClientSession() as session:
        asking = Asking(service, session)
        job_id = (await asking.ask("POST", "/jobs", json={"url": f"http://127.0.0.1:{port}/ok"}))["id"]
        async with asyncio.timeout(30):
            while not any("sink_refused" in line for line in heard.lines):
                await asyncio.sleep(0.1)
        await asking.ask("POST", f"/jobs/{job_id}/pause")
        await asking.ask_all_about(job_id, is_final=False)
    assert_silent(asking.answers, "X-Amz-Signature")
    assert_silent(heard.lines, "X-Amz-Signature", "AWS4-HMAC")
