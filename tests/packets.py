"""Counts the packets to a port, on every interface of this machine, as the kernel hands them over."""

import ctypes
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
_SO_ATTACH_FILTER = 26
# Classic BPF (linux/filter.h): A and X are its registers.
_A_BYTE, _A_HALF_BEHIND_X, _X, _X_IPV4_LENGTH = 0x30, 0x48, 0x01, 0xB1
_AND, _JUMP, _IF, _RETURN = 0x54, 0x05, 0x15, 0x06


def _filter(port: int) -> bytes:
    """Return what lets TCP and UDP to this port pass: (instruction, steps to skip if so, else, operand) each."""
    steps = (
        (_A_BYTE, 0, 0, 0),
        (_AND, 0, 0, 0xF0),
        (_IF, 3, 0, 0x60),
        (_X_IPV4_LENGTH, 0, 0, 0),
        (_A_BYTE, 0, 0, 9),
        (_JUMP, 0, 0, 2),
        (_X, 0, 0, 40),
        (_A_BYTE, 0, 0, 6),
        (_IF, 1, 0, socket.IPPROTO_TCP),
        (_IF, 0, 3, socket.IPPROTO_UDP),
        (_A_HALF_BEHIND_X, 0, 0, 2),
        (_IF, 0, 1, port),
        (_RETURN, 0, 0, 0xFFFF),
        (_RETURN, 0, 0, 0),
    )
    return b"".join(struct.pack("HBBI", *step) for step in steps)


class PacketCount:
    """Packets so far. The kernel puts each here before the call that sends it returns; on loopback it does so twice."""

    def __init__(self, tap: socket.socket) -> None:
        self._tap = tap
        self._count = 0

    def __call__(self) -> int:
        while True:
            try:
                about = self._tap.recvfrom(1)[1]
            except BlockingIOError:
                return self._count
            self._count += about[1] in {_ETH_P_IP, _ETH_P_IPV6}


@contextmanager
def packets_to(port: int) -> Iterator[PacketCount]:
    """Count TCP and UDP to this port of whatever address; the test is skipped where nobody may."""
    try:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
    except PermissionError:
        pytest.skip("counting packets needs CAP_NET_RAW (root has it)")
    with tap:
        tap.settimeout(0)
        steps = ctypes.create_string_buffer(code := _filter(port), len(code))
        tap.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(code) // 8, ctypes.addressof(steps)))
        # What came before there was a filter.
        PacketCount(tap)()
        yield PacketCount(tap)
