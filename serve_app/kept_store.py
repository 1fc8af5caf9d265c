"""The embedded bucket's store, kept running: one that dies is started again, on the same ports and data.

Laws of this file:
1. One thread starts, watches and stops the store, which dies with the thread that started it (PR_SET_PDEATHSIG).
2. After the first start nothing ends the watch but `stop`: a start that fails is tried again, later and later.
"""

import logging
import threading
import time
from contextlib import closing
from queue import Queue

from rayhaul.errors import Unavailable
from serve_app.seaweed import Seaweed

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2
_POLL_S = 0.05
_WAIT_S_MIN = 0.5
_WAIT_S_MAX = 30.0
#: A store that ran for so long begins with the shortest wait again.
_STEADY_S = 60.0


class KeptStore:
    """A store and the thread that keeps it; `start()` and `stop()`."""

    def __init__(self, store: Seaweed) -> None:
        self._store = store
        self._ending = threading.Event()
        self._first: Queue[BaseException | None] = Queue(1)
        self._thread = threading.Thread(target=self._keep, name="bucket", daemon=True)

    def start(self) -> None:
        """Return when the bucket can be written. Raises: Unavailable."""
        self._thread.start()
        try:
            failure = self._first.get()
        except BaseException:
            # A signal while we wait: the start is given up.
            self.stop()
            raise
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """End the watch and the store."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def _keep(self) -> None:
        try:
            self._start()
        except BaseException as error:  # noqa: BLE001 - it is raised where `start` waits
            self._first.put(error)
            return
        self._first.put(None)
        try:
            self._watch()
        finally:
            self._store.stop()

    def _start(self) -> None:
        """Start the store; return early, with nothing running, when the end comes. Raises: Unavailable."""
        with closing(self._store.starting()) as waits:
            for _ in waits:
                if self._ending.wait(_POLL_S):
                    return

    def _watch(self) -> None:
        wait_s = _WAIT_S_MIN
        began_s = time.monotonic()
        while not self._ending.wait(_LOOK_EVERY_S):
            code = self._store.exit_code
            if code is None:
                continue
            if time.monotonic() - began_s > _STEADY_S:
                wait_s = _WAIT_S_MIN
            _log.warning("the embedded bucket's store has ended (exit code %d), and is started again", code)
            wait_s = self._start_again(wait_s)
            began_s = time.monotonic()

    def _start_again(self, wait_s: float) -> float:
        """Start the store until it runs or the end comes; return what to wait for before the next time."""
        self._store.bury()
        while not self._ending.wait(wait_s):
            wait_s = min(2 * wait_s, _WAIT_S_MAX)
            try:
                self._start()
            except (Unavailable, OSError) as error:
                _log.warning("%s; it is tried again in %.0f s", error, wait_s)
            else:
                if not self._ending.is_set():
                    _log.warning("the embedded bucket's store runs again")
                break
        return wait_s
