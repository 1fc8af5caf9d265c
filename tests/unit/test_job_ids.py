"""Ids of very many jobs: they behave as the list they stand for, and cost little."""

import copy
import gc
import pickle
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhaul.client.job_ids import JobIds
from rayhaul.ids import IdFactory, pack, unpack

COUNT = 200_000
NEW_ID = IdFactory()
#: Ids of ours; the least and the greatest of their form, and what only looks like one; whatever else is a text.
JOB_ID = st.one_of(
    st.builds(lambda: NEW_ID("job")),
    st.sampled_from(
        [
            *("job_" + "0" * 26, "job_7" + "z" * 25, "job_8" + "0" * 25, "job_" + "0" * 25, "job_" + "0" * 27),
            *("", "job_", "job_0001", "job", "lease_" + "0" * 26, "job_" + "0" * 25 + "A", "job_" + "0" * 25 + "l"),
            *(
                "job_ " + "0" * 25,
                "job_" + "0" * 24 + "_0",
                "job_+" + "0" * 25,
                "job_" + "٠" * 26,
                "job_" + "0" * 26 + "\n",
            ),
        ]
    ),
    st.text(),
)


@given(st.lists(JOB_ID), st.slices(8), JOB_ID)
def test_it_is_as_the_list(texts: list[str], some: slice, another: str) -> None:
    """Read, sliced, searched, compared, copied: no id is changed, whatever its form."""
    ids = JobIds(texts)
    assert list(ids) == texts == ids
    assert len(ids) == len(texts)
    assert [ids[row] for row in range(-len(texts), len(texts))] == texts * 2
    assert ids[some] == texts[some]
    assert list(reversed(ids)) == texts[::-1]
    assert all(text in ids for text in texts)
    assert (another in ids) is (another in texts)
    assert (ids == [*texts[:-1], another]) is (texts == [*texts[:-1], another])
    assert ids == JobIds(texts) == copy.deepcopy(ids) == pickle.loads(pickle.dumps(ids)) == tuple(texts)
    assert (ids == JobIds([*texts[:-1], another])) is (texts == [*texts[:-1], another])


def test_what_it_is_not() -> None:
    """It ends where a list ends, cannot be changed, and says in a few words what it is."""
    ids = JobIds(NEW_ID("job") for _ in range(3000))
    with pytest.raises(IndexError):
        ids[3000]
    with pytest.raises(TypeError):
        ids[0] = "job_0001"  # type: ignore[index]
    with pytest.raises(TypeError):
        hash(ids)
    assert 5 not in ids  # type: ignore[comparison-overlap]
    assert ids != ids[0]
    # Bytes that are found across two rows are no id.
    both = b"".join(filter(None, (pack("job", each) for each in ids[:2])))
    assert unpack("job", both[8:24]) not in ids
    assert repr(ids) == f"<3,000 job ids: {ids[0]} … {ids[-1]}>"
    assert (repr(ids[:1]), repr(JobIds())) == (f"<1 job id: {ids[0]}>", "<no job ids>")


def test_very_many_ids() -> None:
    """Less than 32 bytes each while they come in, room for more among them."""
    gc.collect()
    tracemalloc.start()
    try:
        ids = JobIds(f"job_{number:026}" for number in range(COUNT))
        bytes_each = tracemalloc.get_traced_memory()[1] / COUNT
    finally:
        tracemalloc.stop()
    print(f"at most {bytes_each:.1f} bytes an id")
    assert (len(ids), ids[-1]) == (COUNT, f"job_{COUNT - 1:026}")
    assert bytes_each < 32
