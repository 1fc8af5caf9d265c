"""libtorrent's session, set up so that it reaches nobody but through the proxy.

Laws of this file:
1. No socket of the library leads anywhere but to the proxy: it is told to use it for peers and trackers alike, its own
   connections are bound to loopback, and it hears nobody (`_seal`). What the guard denies is in its own filter too.
2. Peers come from trackers and from the link. DHT, local discovery, peer exchange, port mapping, web seeds and WebRTC
   are off: each of them would meet addresses by other ways.
"""

import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import libtorrent as lt

from rayhaul.errors import Internal, SourceRefused
from tasks.guard import AddressGuard
from tasks.magnet import InfoHash, Magnet
from tasks.torrent_proxy import USER, TorrentProxy

DOCUMENT_BYTES_MAX = 8 * 1024 * 1024
_PIECES_MAX = 400_000
#: What peers get of us while we read from them: without any, few would go on sending.
_UPLOAD_BYTES_PER_S_MAX = 64 * 1024
_CONNECTIONS_MAX = 200
#: Connections of one torrent: more than there may be of all, as only those are to be counted.
_TORRENT_CONNECTIONS_MAX = 1000
_FAILURES_MAX = 10
_BEGIN_MS_MAX = 10_000

_FLAGS = lt.torrent_flags
_TORRENT_FLAGS = (
    _FLAGS.update_subscribe
    | _FLAGS.apply_ip_filter
    | _FLAGS.default_dont_download
    | _FLAGS.duplicate_is_error
    | _FLAGS.disable_dht
    | _FLAGS.disable_lsd
    | _FLAGS.disable_pex
)


def settings(proxy: TorrentProxy) -> dict[str, Any]:
    """Return libtorrent's settings: what laws 1 and 2 say."""
    off = (
        *("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp", "enable_ip_notifier"),
        *("enable_incoming_tcp", "enable_incoming_utp", "enable_outgoing_utp"),
    )
    return {
        **dict.fromkeys(off, False),
        "proxy_type": int(lt.proxy_type_t.socks5_pw),
        "proxy_hostname": "127.0.0.1",
        "proxy_port": proxy.port,
        "proxy_username": USER,
        "proxy_password": proxy.password,
        "proxy_hostnames": True,
        "proxy_peer_connections": True,
        "proxy_tracker_connections": True,
        # So that the proxy knows whose datagrams to carry.
        "socks5_udp_send_local_ep": True,
        # Behind a proxy the library keeps the id that one UDP tracker gave it for all of them.
        "udp_tracker_token_expiry": 0,
        "listen_interfaces": "",
        "outgoing_interfaces": "127.0.0.1",
        "webtorrent_stun_server": "",
        "dht_bootstrap_nodes": "",
        "ssrf_mitigation": True,
        "apply_ip_filter_to_trackers": True,
        "validate_https_trackers": True,
        "no_connect_privileged_ports": False,  # The proxy says which ports.
        "anonymous_mode": True,
        "max_web_seed_connections": 0,
        "max_metadata_size": DOCUMENT_BYTES_MAX,
        "max_piece_count": _PIECES_MAX,
        "connections_limit": _CONNECTIONS_MAX,
        # One that answers with nobody, or with liars, must not hide the others.
        "announce_to_all_trackers": True,
        "announce_to_all_tiers": True,
        "upload_rate_limit": _UPLOAD_BYTES_PER_S_MAX,
        # A torrent of which nothing is wanted at the moment keeps its peers for the next part.
        "close_redundant_connections": False,
        "min_reconnect_time": 2,
        "max_failcount": _FAILURES_MAX,
        "stop_tracker_timeout": 1,
        "alert_queue_size": 10_000,
        "alert_mask": lt.alert_category.error | lt.alert_category.status | lt.alert_category.storage,
    }


def address_filter(guard: AddressGuard) -> lt.ip_filter:
    """Return what the guard denies whatever the port, as the library's own filter."""
    made = lt.ip_filter()
    for network, is_allowed in guard.networks():
        made.add_rule(str(network[0]), str(network[-1]), 0 if is_allowed else 1)
    return made


def begun(proxy: TorrentProxy, guard: AddressGuard) -> lt.session:
    """Return a session without the extension for peer exchange, sealed. Raises: Internal."""
    # The library's types know settings by their names only.
    session: lt.session = lt.session(cast("Any", settings(proxy)), 0)
    session.set_ip_filter(address_filter(guard))
    session.add_extension("ut_metadata")
    session.add_extension("smart_ban")
    port = 0
    while port == 0 and session.wait_for_alert(_BEGIN_MS_MAX) is not None:
        ports = [alert.port for alert in session.pop_alerts() if isinstance(alert, lt.listen_succeeded_alert)]
        port = next(iter(ports), 0)
    _seal(port, proxy.port)
    return session


def consider_again(session: lt.session, handles: Iterable[lt.torrent_handle], turn: int) -> None:
    """Have torrents connect again to peers that left while nothing was wanted; `turn` is another one each time.

    To have nothing to ask for is to be finished, and seeds hang up on who is. Asked for more, the library (2.1) counts
    seeds among those worth a connection only where it counts anew, and looks at the count only where something of the
    torrent's connections changes.
    """
    session.apply_settings(cast("Any", {"max_failcount": _FAILURES_MAX + turn % 2}))
    for handle in handles:
        handle.set_max_connections(_TORRENT_CONNECTIONS_MAX + turn % 2)


def _seal(port: int, proxy_port: int) -> None:
    """Have the library's datagram socket, which it binds to every interface, hear nobody but loopback.

    One that is connected takes nothing from anybody else (udp(7)). Raises: Internal where it is not found.
    """
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - all at once: what is looked at opens others
        try:
            is_socket = stat.S_ISSOCK(os.fstat(int(name)).st_mode)
            found = socket.socket(fileno=os.dup(int(name))) if is_socket else None
        except OSError:
            # It was closed meanwhile.
            continue
        if found is None:
            continue
        with found:
            is_inet = found.family == socket.AF_INET and found.type == socket.SOCK_DGRAM
            if is_inet and found.getsockname()[1] == port != 0:
                found.connect(("127.0.0.1", proxy_port))
                return
    raise Internal("BitTorrent's own socket cannot be closed to strangers on this machine.")


def parsed(document: bytes) -> lt.add_torrent_params:
    """Return what a .torrent says. Raises: SourceRefused."""
    try:
        params = lt.load_torrent_buffer(document)
    except (RuntimeError, ValueError) as error:
        raise SourceRefused("The .torrent cannot be read.") from error
    if params.ti is None or not params.ti.is_valid():
        raise SourceRefused("The .torrent describes no files.")
    return params


def info_hash_of(params: lt.add_torrent_params) -> InfoHash:
    hashes = params.info_hashes
    return InfoHash(
        v1=str(hashes.v1) if hashes.has_v1() else None,
        v2=str(hashes.v2) if hashes.has_v2() else None,
    )


def dressed(params: lt.add_torrent_params, magnet: Magnet, directory: Path) -> lt.add_torrent_params:
    """Return what is added to the session: of whom to ask, what the link was left with, and nothing else."""
    wanted = magnet.info_hash
    if params.ti is None:
        params.info_hashes = (
            lt.info_hash_t(lt.sha1_hash(bytes.fromhex(wanted.v1)))
            if wanted.v1 is not None
            else lt.info_hash_t(lt.sha256_hash(bytes.fromhex(wanted.v2 or "")))
        )
    params.save_path = str(directory)
    params.flags = _TORRENT_FLAGS
    params.trackers = [*magnet.trackers]
    params.tracker_tiers = [0] * len(magnet.trackers)
    params.peers = [*magnet.peers]
    params.url_seeds, params.http_seeds, params.dht_nodes = [], [], []
    return params
