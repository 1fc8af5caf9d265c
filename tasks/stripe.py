"""The parts of one lease that are still to be sent. Its end may come nearer while it runs.

Laws of this file:
1. Parts are taken in ascending order; one that was taken stays in the stripe, so trimming stops nothing.
2. A stripe that was trimmed, even by nothing, is shared: its lease does not complete the upload.
3. One whose file is read in order, or goes up in one piece, is fixed: it gives nothing up.
"""

from collections import deque
from collections.abc import Iterable


class Stripe:
    def __init__(self, first_part: int, end_part: int) -> None:
        self.first_part = first_part
        self.end_part = end_part
        self.is_shared = False
        self.is_fixed = False
        self._open: deque[int] = deque()
        #: One more than the highest number that was taken.
        self._taken_end = first_part

    def __contains__(self, number: int) -> bool:
        return self.first_part <= number < self.end_part

    @property
    def parts_count(self) -> int:
        return self.end_part - self.first_part

    def is_whole(self, parts_count: int) -> bool:
        """Whether its lease may complete an upload of so many parts."""
        return not self.is_shared and self.first_part == 1 and self.end_part > parts_count

    def fix(self) -> None:
        """Give nothing up from now on."""
        self.is_fixed = True

    def fill(self, numbers: Iterable[int]) -> int:
        """Set the parts that are to be sent, ascending; return how many they are."""
        self._open = deque(number for number in numbers if number in self)
        return len(self._open)

    def take(self) -> int | None:
        """Return the next part to send; None when there is none left."""
        if not self._open:
            return None
        number = self._open.popleft()
        self._taken_end = number + 1
        return number

    def trim(self, end_part: int) -> None:
        """Leave the parts from `end_part` on to others, but for those that were taken."""
        if self.is_fixed:
            return
        self.is_shared = True
        self.end_part = min(self.end_part, max(end_part, self._taken_end))
        while self._open and self._open[-1] >= self.end_part:
            self._open.pop()
