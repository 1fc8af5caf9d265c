"""What a process begins with, and garbage."""

import gc
import weakref

from actors.process import settle


class Node:
    def __init__(self) -> None:
        self.itself = self


def test_only_what_comes_later_is_searched_for_cycles() -> None:
    """What is there is left alone for good; a cycle from before goes first, and one that comes later goes as ever."""
    before = Node()
    gone = weakref.ref(before)
    del before
    try:
        settle()
        assert gone() is None
        assert gc.get_freeze_count() > 0
        assert not [found for found in gc.get_objects() if found is Node]
        later = Node()
        gone = weakref.ref(later)
        del later
        gc.collect()
        assert gone() is None
    finally:
        gc.unfreeze()
