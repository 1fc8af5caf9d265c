"""A stream's place in the feed: what waits for a client, and what is dropped when."""

from rayhaul.job import JobStatus
from rayhaul.ledger.base import Viewer
from serve_app.feed import PAGE_EVENTS, Listener, Message


def event(seq: int, status: JobStatus = JobStatus.DOWNLOADING, job_id: str = "job_1") -> Message:
    return Message(seq=seq, ts_s=0.0, job_id=job_id, user_id="alice", status=status, frame=b"event")


def listening() -> Listener:
    listener = Listener(Viewer("alice"), None)
    listener.begin_reading()
    return listener


def test_it_begins_behind() -> None:
    """What is told before the client reads the ledger is not kept: it stands there."""
    listener = Listener(Viewer("alice"), None)
    assert listener.behind
    listener.offer([event(1)])
    assert listener.take() == ([], [])
    listener.begin_reading()
    listener.offer([event(2)])
    assert listener.take() == ([event(2)], [])
    assert listener.take() == ([], [])


def test_only_the_newest_progress_waits() -> None:
    """One message a job, however often it was told."""
    listener = listening()
    for frame in (b"1", b"2", b"3"):
        listener.offer_progress("job_1", frame)
    listener.offer_progress("job_2", b"x")
    assert listener.take() == ([], [b"3", b"x"])


def test_progress_goes_when_the_bytes_stop() -> None:
    """A client must not hear of progress after the job's end, nor of a pause."""
    listener = listening()
    for job_id in ("job_1", "job_2"):
        listener.offer_progress(job_id, job_id.encode())
    told = [event(1, JobStatus.PAUSED), event(2, JobStatus.UPLOADING, "job_2")]
    listener.offer(told)
    assert listener.take() == (told, [b"job_2"])


def test_a_full_queue_sends_its_client_to_the_ledger() -> None:
    """Nothing is dropped one by one: the queue is given up as a whole, and begins anew with the next reading."""
    listener = listening()
    for seq in range(4 * PAGE_EVENTS):
        listener.offer([event(seq)])
    assert len(listener.take()[0]) == 4 * PAGE_EVENTS
    for seq in range(4 * PAGE_EVENTS + 1):
        listener.offer([event(seq)])
    assert listener.behind
    listener.offer([event(100)])
    assert listener.take() == ([], [])


def test_whatever_comes_wakes_the_stream() -> None:
    """An event, progress, falling behind and the end of the feed; taking puts it to sleep again."""
    listener = Listener(Viewer("alice"), None)
    listener.offer([event(1)])
    assert listener.wake.is_set()
    listener.take()
    assert not listener.wake.is_set()
    listener.offer_progress("job_1", b"x")
    assert listener.wake.is_set()
    listener.take()
    listener.close()
    assert listener.wake.is_set()
    assert listener.closed
