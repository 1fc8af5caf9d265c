"""Addresses where nobody may be led to, and why: what the guard is held against."""

from tasks.guard import Reason

#: Private, special or wrapped: what `ipaddress.is_global` of CPython 3.11 calls global is marked.
VECTORS = (
    ("0.0.0.0", Reason.RESERVED),
    ("10.0.0.1", Reason.PRIVATE),
    ("100.64.0.1", Reason.PRIVATE),
    ("100.100.100.200", Reason.CLOUD),
    ("127.0.0.1", Reason.LOOPBACK),
    ("169.254.169.254", Reason.LINK_LOCAL),
    ("172.16.0.1", Reason.PRIVATE),
    ("192.168.0.1", Reason.PRIVATE),
    ("198.18.0.1", Reason.RESERVED),
    ("255.255.255.255", Reason.RESERVED),
    ("192.0.0.8", Reason.RESERVED),  # called global
    ("192.88.99.1", Reason.RESERVED),  # called global
    ("168.63.129.16", Reason.CLOUD),  # called global
    ("224.0.0.1", Reason.MULTICAST),  # called global
    ("::", Reason.RESERVED),
    ("::1", Reason.LOOPBACK),
    ("::7f00:1", Reason.TRANSITION),  # called global
    ("::ffff:127.0.0.1", Reason.TRANSITION),
    ("::ffff:169.254.169.254", Reason.TRANSITION),
    ("64:ff9b::a9fe:a9fe", Reason.TRANSITION),  # called global
    ("64:ff9b:1::a9fe:a9fe", Reason.TRANSITION),  # called global
    ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Reason.TRANSITION),
    ("2002:a9fe:a9fe::1", Reason.TRANSITION),  # called global
    ("2001:db8::1", Reason.RESERVED),
    ("3fff::1", Reason.RESERVED),  # called global
    ("5f00::1", Reason.RESERVED),  # called global
    ("fd00:ec2::254", Reason.PRIVATE),
    ("fe80::1", Reason.LINK_LOCAL),
    ("fec0::1", Reason.PRIVATE),  # called global
    ("ff02::1", Reason.MULTICAST),  # called global
    ("ff0e::1", Reason.MULTICAST),  # called global
    ("2600:1f18::200:5efe:a00:1", Reason.TRANSITION),
    ("2600:1f18::5efe:808:808", Reason.TRANSITION),
    ("4000::1", Reason.RESERVED),
    ("fe80::1%eth0", Reason.LINK_LOCAL),
    ("2600:1f18::1%eth0", Reason.LINK_LOCAL),
    ("not an address", Reason.URL),
)

#: Ways to write an address of this machine.
WRITTEN = (
    *("127.0.0.1", "127.0.0.1.", "127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "017700000001", "0177.0.0.1"),
    *(
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "me@127.0.0.1",
        "127.0.0.1%20",
    ),
)
