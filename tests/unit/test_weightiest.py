"""Of errors that came at once, which one says what has to follow."""

from itertools import permutations

import pytest

from rayhaul.errors import HostFull, LeaseLost, RayhaulError, SourceBusy, SourceChanged, SourceRefused
from tasks.lease_control import weightiest

#: Each says more than those after it.
ORDER = (ValueError(), LeaseLost(), SourceChanged(), SourceRefused(), SourceBusy(), HostFull())


@pytest.mark.parametrize("fewest", range(len(ORDER)))
def test_the_weightiest(fewest: int) -> None:
    """In whatever order they came, and however deep they lie in groups."""
    some = ORDER[fewest:]
    for errors in permutations(some):
        group = BaseExceptionGroup("of one lease", [errors[0], BaseExceptionGroup("deeper", errors[-1:]), *errors[1:]])
        assert weightiest(group) is some[0]


def test_what_the_host_has_no_room_for_says_least() -> None:
    assert isinstance(ORDER[-1], RayhaulError)
    assert ORDER[-1].failure().of_host
