"""The log lines of one node, out of the files in Ray's session directory, which outlive the processes that wrote them.

Laws of this file:
1. What is read is bounded: of all files together the newest `_BYTES_MAX`, from their ends.
2. The newest lines are kept where there are too many, and it is told that there were more.
"""

import heapq
import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayhaul.log_lines import Line, Part, Wanted, part_of, read_lines

_BYTES_MAX = 64 * 1024 * 1024
_STDERR = Path("/proc/self/fd/2")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLines:
    """What one look at a node found."""

    #: The same for two looks at the same files: several of Ray's nodes may share a machine.
    where: str
    #: Oldest first.
    lines: Sequence[Line]
    #: Whether there was more than was asked for, or than is read.
    is_cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterLines:
    """What was found on all nodes."""

    #: Oldest first.
    lines: Sequence[Line]
    is_cut: bool
    nodes_count: int
    #: Nodes that did not answer in time; their lines are missing.
    nodes_silent: int


class LocalLogs:
    """The lines of one directory (ports.LogReader); none where there is no directory."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory

    async def read(self, wanted: Wanted, lines_max: int) -> ClusterLines:
        if self._directory is None:
            return joined([], lines_max, nodes_count=0)
        return joined([read_directory(self._directory, wanted, lines_max)], lines_max, nodes_count=1)


def session_directory() -> Path:
    """Return where Ray put this process's log: it is a worker of Ray's, and its stderr a file."""
    return _STDERR.readlink().parent


def read_directory(directory: Path, wanted: Wanted, lines_max: int) -> NodeLines:
    """Return the newest lines that are wanted."""
    found: list[tuple[str, int, Line]] = []
    count = 0
    bytes_left = _BYTES_MAX
    for path, part, size in _files(directory, wanted):
        if not bytes_left:
            break
        taken = min(size, bytes_left)
        bytes_left -= taken
        for line in _lines(path, part, wanted, taken):
            count += 1
            # The number keeps lines of one millisecond in their order, and lines themselves from being compared.
            entry = (line["ts"], count, line)
            if len(found) < lines_max:
                heapq.heappush(found, entry)
            else:
                heapq.heappushpop(found, entry)
    state = directory.stat()
    return NodeLines(
        where=f"{socket.gethostname()}/{state.st_dev}/{state.st_ino}",
        lines=[line for _, _, line in sorted(found)],
        is_cut=count > lines_max or not bytes_left,
    )


def joined(nodes: Sequence[NodeLines], lines_max: int, *, nodes_count: int) -> ClusterLines:
    """Return the newest lines of all nodes, oldest first; of several looks at the same files one counts."""
    once = {node.where: node for node in nodes}.values()
    lines = sorted((line for node in once for line in node.lines), key=lambda line: str(line["ts"]))
    return ClusterLines(
        lines=lines[-lines_max:],
        is_cut=len(lines) > lines_max or any(node.is_cut for node in once),
        nodes_count=nodes_count,
        nodes_silent=nodes_count - len(nodes),
    )


def _files(directory: Path, wanted: Wanted) -> Iterator[tuple[Path, Part, int]]:
    """Yield (path, whose it is, size) of the files that may have such lines, the one last written to first."""
    since_s = 0.0 if wanted.since is None else wanted.since.timestamp()
    found = []
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder) / name
            part = part_of(str(path.relative_to(directory)))
            # A file may go while we look.
            if part is None or (wanted.is_ours_only and part.handler != "ray/worker") or not path.exists():
                continue
            state = path.stat()
            if state.st_size and state.st_mtime >= since_s:
                found.append((state.st_mtime, path, part, state.st_size))
    for _, path, part, size in sorted(found, key=lambda entry: entry[0], reverse=True):
        yield path, part, size


def _lines(path: Path, part: Part, wanted: Wanted, bytes_count: int) -> Iterator[Line]:
    """Yield what is wanted of the last bytes of a file."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        begin = max(0, size - bytes_count)
        file.seek(begin)
        data = file.read(bytes_count)
    # The first line is torn where the file began earlier, the last one where it is being written.
    texts = data.split(b"\n")[1 if begin else 0 : -1]
    # Cheaper than reading all as JSON: lines of ours have their ids in them.
    needles = [json.dumps(needle).encode() for needle in wanted.needles]
    if needles:
        texts = [text for text in texts if any(needle in text for needle in needles)]
    for line in read_lines((text.decode(errors="replace") for text in texts), part):
        if wanted.takes(line):
            yield line
