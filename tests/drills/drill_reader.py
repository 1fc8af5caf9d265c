"""A client that reads the events as they come, in a process of its own: the drill beside it must not hold it up.

Writes how long after its commit each event came, seconds, a line each.
"""

import json
import sys
import time
from datetime import datetime

import httpx


def main(url: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(timeout=30, headers=headers) as http, http.stream("GET", f"{url}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: ") and '"seq":null' not in line:
                at = datetime.fromisoformat(json.loads(line[6:])["ts"])
                print(time.time() - at.timestamp(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
