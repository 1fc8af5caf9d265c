"""Machines for `ray up`, made of namespaces: each has an address, processes, a /tmp, a home and an sshd of its own.

They hang on a bridge, on whose address this process can serve them. Everything is named after this process, so that two
runs do not meet, and goes away by name and process id, also after a failure. Linux, root, and Debian's openssh-server,
rsync and iproute2 are needed (`why_not`).
"""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from string import ascii_lowercase
from typing import Self

_TOOLS = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "rsync": "rsync",
    "ip": "iproute2",
    "nsenter": "util-linux",
}
_SSHD_TIMEOUT_S = 20
_APT_TIMEOUT_S = 300

_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
#: What everything is named after, with the process id. A link's name has at most 15 characters.
_NAME, _DIRECTORY = "rh", "rayhaul-hosts-"
_letters = cycle(ascii_lowercase)
_CHECKOUT = Path(__file__).parents[2]
#: Where sshd leads those who log in, whatever our own HOME says.
_HOME = Path(pwd.getpwuid(os.getuid()).pw_dir)

#: Runs as the first process of a host: what the host sees as its own comes in the environment.
_INIT = """
set -eu
# A checkout below /tmp and a home there stay where they are when the host gets a /tmp of its own.
mkdir "$HOST_DIR/checkout" "$HOST_DIR/lower"
mount --bind "$CHECKOUT" "$HOST_DIR/checkout"
mount --bind "$HOST_HOME" "$HOST_DIR/lower"
mount --bind "$HOST_DIR/tmp" /tmp
case "$CHECKOUT" in /tmp/*) mkdir -p "$CHECKOUT" && mount --bind "$HOST_DIR/checkout" "$CHECKOUT" ;; esac
mkdir -p "$HOST_HOME"
mount -t overlay overlay -o "lowerdir=$HOST_DIR/lower,upperdir=$HOST_DIR/home,workdir=$HOST_DIR/work" "$HOST_HOME"
# A tool of the developers brings it: no machine of a cluster has it. Where it is, each Python process that imports Ray
# imports it, and it builds a parser then, which takes longer than all else that these processes do at their start.
[ ! -d "$NOT_THERE" ] || mount -t tmpfs tmpfs "$NOT_THERE"
exec "$SSHD" -D -e -f "$HOST_DIR/sshd_config"
"""


def why_not() -> str | None:
    """Return why there can be no such hosts here; None when there can. Installs what is missing where apt has it."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [package for tool, package in _TOOLS.items() if shutil.which(tool, path=_PATH) is None]
    if missing and shutil.which("apt-get"):
        quiet = {"check": False, "capture_output": True, "timeout": _APT_TIMEOUT_S}
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update"], env=environment, **quiet)  # type: ignore[call-overload]
        command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
        subprocess.run(command, env=environment, **quiet)  # type: ignore[call-overload]
        missing = [package for tool, package in _TOOLS.items() if shutil.which(tool, path=_PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    made = subprocess.run(["ip", "netns", "list"], capture_output=True)
    return None if made.returncode == 0 else "network namespaces are not to be had here"


_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    address: str
    namespace: str
    directory: Path
    process: "subprocess.Popen[bytes]"

    @property
    def tmp(self) -> Path:
        """The host's /tmp, from outside."""
        return self.directory / "tmp"

    @property
    def home(self) -> Path:
        """What the host has written below its home, from outside."""
        return self.directory / "home"

    def commands(self) -> list[str]:
        """Return the command lines of the host's processes, but sshd's."""
        wanted = Path(f"/proc/{self._init_pid()}/ns/pid").stat().st_ino
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "ns/pid").stat().st_ino == wanted:
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip())
            except OSError:
                continue
        return [command for command in found if command and "sshd" not in command]

    def enter(self) -> list[str]:
        """Return what to put before a command so that it runs on the host."""
        return ["nsenter", f"--target={self._init_pid()}", "--all", "--", "env", f"HOME={_HOME}"]

    def _init_pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])


class Hosts:
    """`with Hosts(3) as hosts`: so many machines, and a bridge to them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._stack = ExitStack()
        self._name = f"{_NAME}{os.getpid()}{next(_letters)}"
        self.directory = Path()
        self.hosts: list[Host] = []
        self._network = ""

    @property
    def bridge_address(self) -> str:
        return f"{self._network}.1"

    @property
    def cidr(self) -> str:
        return f"{self._network}.0/24"

    @property
    def key_path(self) -> Path:
        """The private key that every host's root lets in."""
        return self.directory / "key"

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _make(self) -> None:
        _sweep()
        # Not under /tmp: the hosts have another one, and must see their keys and settings.
        self.directory = Path(tempfile.mkdtemp(prefix=f"{_DIRECTORY}{os.getpid()}-", dir="/var/tmp"))
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key_path))
        Path("/run/sshd").mkdir(exist_ok=True)
        bridge = f"{self._name}b"
        self._network = _free_network()
        _run("ip", "link", "add", bridge, "type", "bridge")
        self._stack.callback(_quietly, "ip", "link", "del", bridge)
        _run("ip", "addr", "add", f"{self.bridge_address}/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        for number in range(1, self._count + 1):
            self.hosts.append(self._make_host(number, bridge))
        for host in self.hosts:
            _await_port(host)

    def _make_host(self, number: int, bridge: str) -> Host:
        namespace, outside, address = (
            f"{self._name}-{number}",
            f"{self._name}v{number}",
            f"{self._network}.{10 + number}",
        )
        _run("ip", "netns", "add", namespace)
        self._stack.callback(_quietly, "ip", "netns", "del", namespace)
        _run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        self._stack.callback(_quietly, "ip", "link", "del", outside)
        _run("ip", "link", "set", outside, "master", bridge, "up")
        for words in (
            f"addr add {address}/24 dev eth0",
            "link set lo up",
            "link set eth0 up",
            # It leads nowhere, but a host without one does not know which of its addresses is the real one.
            f"route add default via {self.bridge_address}",
        ):
            _run("ip", "-n", namespace, *words.split())
        directory = self.directory / str(number)
        for name in ("tmp", "home", "work"):
            (directory / name).mkdir(parents=True)
        (directory / "tmp").chmod(0o1777)
        for name in (".bashrc", ".bash_profile", ".profile"):
            # A fresh machine's: what our own shells do at their start is slow, and no business of the hosts.
            (directory / "home" / name).touch()
        return Host(
            address=address, namespace=namespace, directory=directory, process=self._boot(namespace, address, directory)
        )

    def _boot(self, namespace: str, address: str, directory: Path) -> "subprocess.Popen[bytes]":
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "host_key"))
        shutil.copy(f"{self.key_path}.pub", directory / "authorized_keys")
        config = [
            f"ListenAddress {address}:22",
            f"HostKey {directory / 'host_key'}",
            f"AuthorizedKeysFile {directory / 'authorized_keys'}",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "StrictModes no",
            "UsePAM no",
            "PidFile none",
        ]
        if "PYTHONPATH" in os.environ:
            # The hosts run the code that this process runs.
            config.append(f"SetEnv PYTHONPATH={os.environ['PYTHONPATH']}")
        (directory / "sshd_config").write_text("\n".join(config) + "\n")
        with (directory / "sshd.log").open("wb") as log:
            process = subprocess.Popen(
                # It dies with us; the host's first process dies with it, and all others with that one.
                [
                    *f"setpriv --pdeathsig KILL nsenter --net=/run/netns/{namespace} --".split(),
                    *_UNSHARE,
                    "bash",
                    "-c",
                    _INIT,
                ],
                env=os.environ
                | {
                    "HOST_DIR": str(directory),
                    "CHECKOUT": str(_CHECKOUT),
                    "HOST_HOME": str(_HOME),
                    "NOT_THERE": f"{sysconfig.get_path('purelib')}/rfc3987_syntax",
                    "SSHD": str(shutil.which("sshd", path=_PATH)),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._stack.callback(_end, process)
        return process


def _sweep() -> None:
    """Remove what runs that were killed have left: networks and directories, for their processes died with them."""
    for line in _run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        if _is_left(name, _NAME) and not _run("ip", "netns", "pids", name).strip():
            _quietly("ip", "netns", "del", name)
    for line in _run("ip", "-o", "link").splitlines():
        name = line.split(": ")[1].split("@")[0]
        if _is_left(name, _NAME):
            _quietly("ip", "link", "del", name)
    for directory in Path("/var/tmp").glob(f"{_DIRECTORY}*"):
        if _is_left(directory.name, _DIRECTORY):
            shutil.rmtree(directory, ignore_errors=True)


def _is_left(name: str, prefix: str) -> bool:
    """Tell whether this is the name of something whose maker is gone."""
    found = re.fullmatch(rf"{prefix}(\d+)(?:[a-z-].*)?", name)
    return found is not None and not Path(f"/proc/{found[1]}").exists()


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": _PATH})
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def _quietly(*command: str) -> None:
    # A link goes with its namespace, and a network's end must not hide why the test failed.
    subprocess.run(command, capture_output=True, env=os.environ | {"PATH": _PATH})


def _free_network() -> str:
    """Return the first three numbers of a /24 that no interface here has."""
    taken = _run("ip", "-o", "-4", "addr")
    return next(network for n in range(256) if f" {(network := f'10.77.{(os.getpid() + n) % 256}')}." not in taken)


def _await_port(host: Host) -> None:
    deadline_s = time.monotonic() + _SSHD_TIMEOUT_S
    while True:
        assert host.process.poll() is None, (host.directory / "sshd.log").read_text()
        try:
            socket.create_connection((host.address, 22), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline_s, (host.directory / "sshd.log").read_text()
            time.sleep(0.05)
        else:
            return
