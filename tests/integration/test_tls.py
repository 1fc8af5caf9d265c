"""TLS before the API: the shipped proxy configuration with a certificate of a local authority."""

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from authority import certificates
from documents import ROOT, block, with_values
from plane import Site, api_settings, listening, site_at


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_at(tmp_path, api_settings(rate_per_minute=6)) as site:
        yield site


@pytest.fixture
async def https(site: Site, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client that trusts the authority, to the proxy before the API."""
    authority, server = certificates(tmp_path)
    async with listening(site.app) as url, _proxy(url, server) as address:
        context = ssl.create_default_context(cafile=authority)
        async with httpx.AsyncClient(base_url=f"https://{address}", verify=context) as client:
            yield client


class _proxy:  # noqa: N801 - used like a function
    """HAProxy with the shipped file, as docs/how-to/proxy.md starts it, on a free port."""

    def __init__(self, url: str, certificate: Path) -> None:
        self._api = url.removeprefix("http://")
        self._certificate = certificate

    async def __aenter__(self) -> str:
        probe = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        address = f"127.0.0.1:{probe.sockets[0].getsockname()[1]}"
        probe.close()
        await probe.wait_closed()
        values = {"RAYHAUL_TLS_BIND": address, "RAYHAUL_TLS_PEM": str(self._certificate), "RAYHAUL_API": self._api}
        self._process = await asyncio.create_subprocess_exec(
            *("bash", "-euc", with_values(block("TLS"), values)),
            cwd=ROOT,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        host, port = address.split(":")
        async with asyncio.timeout(20):
            while True:
                assert self._process.returncode is None, await self._process.communicate()
                try:
                    (await asyncio.open_connection(host, int(port)))[1].close()
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    return address

    async def __aexit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.communicate()


async def test_the_api_over_tls(site: Site, https: httpx.AsyncClient) -> None:
    """Answers come with HSTS; Serve's knobs are taken off on the way, and its own pages are not there."""
    headers = site.auth["alice"] | {"X-Request-Timeout-Seconds": "0.001", "x-request-disconnect-disabled": "?1"}
    answer = await https.get("/jobs", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert (await https.get("/-/routes")).status_code == 404
    assert (await https.get("/jobs")).status_code == 401


async def test_the_api_knows_who_came_and_that_it_was_by_tls(site: Site, https: httpx.AsyncClient) -> None:
    """The page's cookie is secure, and a made-up address on the way in counts for nothing: all are this client's."""
    key = site.auth["alice"]["Authorization"].removeprefix("Bearer ")
    left = []
    for number in range(2):
        headers = {"X-Rayhaul-Page": "1", "X-Forwarded-For": f"198.51.100.{number}", "X-Forwarded-Proto": "http"}
        signed = await https.post("/session", json={"key": key}, headers=headers)
        assert signed.status_code == 200, signed.text
        assert "secure" in signed.headers["set-cookie"].lower()
        left.append(int(signed.headers["ratelimit"].partition("r=")[2].partition(";")[0]))
    assert left[0] - left[1] == 1


async def test_event_streams_pass_unbuffered(site: Site, https: httpx.AsyncClient) -> None:
    """The first bytes of a stream arrive while it is open."""
    async with https.stream("GET", "/events", headers=site.auth["alice"]) as stream, asyncio.timeout(20):
        assert await anext(stream.aiter_lines()) == "retry: 3000"


async def test_old_protocols_and_strangers_certificates_are_refused(https: httpx.AsyncClient) -> None:
    """TLS 1.1 finds no common version; a client without the authority does not go on."""
    old = ssl.create_default_context()
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    for context in (old, ssl.create_default_context()):
        async with httpx.AsyncClient(base_url=https.base_url, verify=context) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/livez")
