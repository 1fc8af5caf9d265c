"""Where bytes come from and go to: the controls of SECURITY.md, and how each is switched off (`nulls.py`)."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

from switches import Null, nothing, replaced

import serve_app.jobs
import serve_app.webhooks
import tasks.bucket_rules
import tasks.egress
import tasks.ftp_source
import tasks.guard
import tasks.metalink
import tasks.torrent_datagrams
import tasks.torrent_proxy
import tasks.torrent_session

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def _socket(_self: Any, info: Any) -> socket.socket:
    family, kind, proto, *_ = info
    return socket.socket(family, kind, proto)


async def _resolve(self: Any, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> Any:
    return await self._inner.resolve(host, port, family)


async def _connect(self: Any, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - aiohttp's name
    token = tasks.egress._connecting_host.set(req.host)
    try:
        return await super(tasks.egress.GuardedConnector, self).connect(req, traces, timeout)
    finally:
        tasks.egress._connecting_host.reset(token)


def _unasked() -> None:
    for name in ("check_url", "check_source"):
        setattr(serve_app.jobs, name, nothing)


def _following_posts() -> None:
    made = tasks.egress.GuardedClient._send

    async def send(self: Any, method: str, target: Any, *about: Any) -> Any:
        answer = await made(self, method, target, *about)
        while method == "POST" and answer.status in _REDIRECTS:
            target = target.join(type(target)(answer.headers["Location"]))
            answer.close()
            answer = await made(self, method, target, *about)
        return answer

    setattr(tasks.egress.GuardedClient, "_send", send)  # noqa: B010


async def _where_it_says(self: Any, host: str, port: int) -> Any:
    """Open FTP's connections where the server says, were they allowed there."""
    return await asyncio.open_connection(sock=await self._dialer.dial(host, port, ports={port}))


async def _exchange_with_all(self: Any, made: socket.socket, answer: Any) -> None:
    """Ask a tracker from a socket that hears everybody."""
    address = made.getpeername()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as open_to_all:
        open_to_all.settimeout(0)
        open_to_all.bind(("127.0.0.1", 0))
        self._socket = SimpleNamespace(send=lambda request: open_to_all.sendto(request, address))
        while self._waiting:
            self.send(self._waiting.popleft())
        while True:
            answer(await asyncio.get_running_loop().sock_recv(open_to_all, 4096), address)


def _yes(*_args: Any) -> bool:
    return True


def _looked_at_late() -> None:
    """Leave only the look at the address that was connected to: nothing is asked there, but packets have gone."""
    setattr(tasks.egress.GuardedResolver, "resolve", _resolve)  # noqa: B010
    setattr(tasks.egress.GuardedConnector, "_checked_socket", _socket)  # noqa: B010


_check_address_off = replaced(tasks.guard.AddressGuard, "check_address", nothing)

NULLS = {
    "bucket-own": Null(
        "what the cluster has written is no source",
        replaced(
            tasks.bucket_rules.BucketRules, "check", lambda _self, url: tasks.bucket_rules.StoredObject.parse(url)
        ),
        "tests/integration/test_bucket_source.py::test_a_job_from_a_bucket",
    ),
    "bucket-again": Null(
        "an agent asks the rules of s3:// again",
        replaced(
            tasks.bucket_rules.BucketRules, "check", lambda _self, url: tasks.bucket_rules.StoredObject.parse(url)
        ),
        "tests/integration/test_bucket_source.py::test_rules_hold_for_each_open",
    ),
    "egress-socket": Null(
        "the address of each socket is checked",
        replaced(tasks.egress.GuardedConnector, "_checked_socket", _socket),
        "tests/integration/test_egress.py::test_socket_is_checked_whatever_the_resolver_said",
    ),
    "egress-peer": Null(
        "the address that was connected to is checked",
        replaced(tasks.egress.GuardedConnector, "connect", _connect),
        "tests/integration/test_egress.py::test_peer_is_checked_before_a_request_is_sent",
    ),
    "egress-names": Null(
        "all addresses of a name are checked",
        replaced(tasks.egress.GuardedResolver, "resolve", _resolve),
        "tests/integration/test_egress.py::test_name_with_one_bad_address",
    ),
    "egress-packets": Null(
        "an address is checked before a packet goes there",
        _looked_at_late,
        "tests/integration/test_egress_packets.py::test_no_packet_leaves",
    ),
    "egress-redirect": Null(
        "a redirect is checked as a URL is",
        replaced(tasks.guard.AddressGuard, "check_redirect", lambda _self, base, to: base.join(type(base)(to))),
        "tests/integration/test_egress.py::test_redirect_to_a_forbidden_address",
    ),
    "egress-asked": Null(
        "URLs of a job are checked when it is asked for",
        _unasked,
        "tests/integration/test_api.py::test_urls_into_private_networks_are_denied",
    ),
    "egress-test": Null(
        "a receiver is checked when it is tried out",
        replaced(serve_app.webhooks, "check_url", nothing),
        "tests/integration/test_api_webhooks.py::test_a_test_message_goes_nowhere_it_may_not",
    ),
    "egress-canary": Null(
        "addresses are guarded",
        _check_address_off,
        "tests/integration/test_egress.py::test_forbidden_addresses_are_not_connected_to",
    ),
    "webhook-canary": Null(
        "receivers are guarded",
        _check_address_off,
        "tests/integration/test_courier.py::test_denied_addresses_are_not_connected",
    ),
    "webhook-redirect": Null(
        "redirects of receivers are not followed",
        _following_posts,
        "tests/integration/test_courier.py::test_redirects_are_not_followed",
    ),
    "mirror-canary": Null(
        "mirrors are guarded",
        _check_address_off,
        "tests/integration/test_faults_mirrors.py::test_a_mirror_where_nobody_may_go",
    ),
    "ftp-canary": Null(
        "sockets of FTP are guarded",
        _check_address_off,
        "tests/integration/test_ftp_source.py::test_addresses_are_guarded",
    ),
    "ftp-data": Null(
        "FTP's data comes from the address of the control connection",
        replaced(tasks.ftp_source._Session, "_open_connection", _where_it_says),
        "tests/integration/test_ftp_source.py::test_pasv_to_another_machine",
    ),
    "torrent-canary": Null(
        "peers and trackers of BitTorrent are guarded",
        _check_address_off,
        "tests/integration/test_torrent_source.py::test_denied_addresses_are_never_connected_to",
    ),
    "datagram-canary": Null(
        "UDP trackers are guarded",
        _check_address_off,
        "tests/integration/test_torrent_datagrams.py::test_denied_addresses_are_sent_nothing",
    ),
    "datagram-words": Null(
        "nothing is sent but what trackers are asked",
        replaced(tasks.torrent_datagrams, "_is_request", _yes),
        "tests/integration/test_torrent_datagrams.py::test_only_whole_questions_of_the_one_who_asked",
    ),
    "datagram-others": Null(
        "nobody but the tracker that was asked is heard",
        replaced(tasks.torrent_datagrams._Tracker, "exchange", _exchange_with_all),
        "tests/integration/test_torrent_datagrams.py::test_nobody_else_answers",
    ),
    "torrent-socket": Null(
        "BitTorrent's own socket hears loopback alone",
        replaced(tasks.torrent_session, "_seal", nothing),
        "tests/integration/test_torrent_source.py::test_nobody_hears_strangers",
    ),
    "torrent-password": Null(
        "BitTorrent's way out asks for its password",
        replaced(tasks.torrent_proxy, "hmac", SimpleNamespace(compare_digest=_yes)),
        "tests/integration/test_torrent_source.py::test_nobody_hears_strangers",
    ),
    "entities": Null(
        "Metalink documents have no entities",
        replaced(tasks.metalink, "fromstring", lambda document, forbid_dtd: ET.fromstring(document)),
        "tests/unit/test_metalink.py::test_what_is_refused",
    ),
}
