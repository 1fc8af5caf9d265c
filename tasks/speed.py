"""Whether a source is too slow to be worth a connection."""


class SpeedWatch:
    """Counts the bytes of a body, and the time spent waiting for them: what we take ourselves is not its fault."""

    def __init__(self, bytes_per_s_min: int, window_s: float) -> None:
        self.bytes_per_s_min = bytes_per_s_min
        self._window_s = window_s
        self._waited_s = 0.0
        self._bytes_count = 0

    def is_too_slow(self, bytes_count: int, waited_s: float) -> bool:
        """Take in what a wait brought; return whether a whole window has now brought too little.

        >>> watch = SpeedWatch(1000, window_s=10)
        >>> [
        ...     watch.is_too_slow(9000, waited_s=5),
        ...     watch.is_too_slow(500, waited_s=5),
        ...     watch.is_too_slow(500, waited_s=5),
        ... ]
        [False, True, False]
        """
        self._bytes_count += bytes_count
        self._waited_s += waited_s
        if self._waited_s < self._window_s:
            return False
        brought, waited = self._bytes_count, self._waited_s
        self._bytes_count, self._waited_s = 0, 0.0
        return brought < self.bytes_per_s_min * waited
