"""Which message goes next: a job's in order, receivers in turn, and nobody behind one that is slow."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from actors.mailbag import BEHIND_MAX, WAITING_MAX, Mailbag, receiver_of
from rayhaul.ledger.deliveries import OutboxRecord

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LATER = NOW + timedelta(hours=5)


def message(number: int, *, job: str = "", host: str = "one.example") -> OutboxRecord:
    return OutboxRecord(
        outbox_id=f"msg_{number:05}",
        job_id=job or f"job_{number}",
        user_id="ann",
        url=f"https://{host}/hook",
        event="completed",
        payload={},
        created_at=NOW,
    )


def started(bag: Mailbag) -> list[OutboxRecord]:
    """Return all that may go at once."""
    found = []
    while (record := bag.start()) is not None:
        found.append(record)
    return found


def delivered(bag: Mailbag, record: OutboxRecord, *, strained: bool = False, took_s: float = 0.1) -> None:
    bag.end(record)
    bag.heard(record, strained=strained, took_s=took_s)


def failed(bag: Mailbag, record: OutboxRecord, until: datetime) -> None:
    bag.put_off(record, until)
    bag.heard(record, strained=False, took_s=0.1)


def put_off(bag: Mailbag) -> Sequence[OutboxRecord]:
    """Return what the ledger is told to postpone, and tell it."""
    news = bag.news()
    bag.settle(news)
    return news.put_off


def test_one_at_a_time_of_a_job_in_order() -> None:
    """The second goes when the first is delivered, however they came in."""
    bag = Mailbag(under_way_max=64)
    first, second = message(1, job="a"), message(2, job="a")
    bag.take([second, first], NOW)
    assert started(bag) == [first]
    delivered(bag, first)
    assert started(bag) == [second]


def test_what_comes_after_a_failure_waits_behind_it() -> None:
    """A failed delivery puts off the job's other messages too: those in hand, and those made later."""
    bag = Mailbag(under_way_max=64)
    first, second, third = (message(number, job="a") for number in (1, 2, 3))
    bag.take([first, second], NOW)
    assert started(bag) == [first]
    failed(bag, first, LATER)
    tried = replace(first, attempts=1, next_attempt_at=LATER)
    assert put_off(bag) == [tried, replace(second, next_attempt_at=LATER)]
    bag.take([third], NOW)
    assert put_off(bag) == [replace(third, next_attempt_at=LATER)]
    assert started(bag) == []
    # The second comes up before the first does, as a page's end may have it.
    bag.take([second], LATER)
    assert put_off(bag) == [replace(second, next_attempt_at=LATER + timedelta(seconds=1))]
    bag.take([tried, third], LATER)
    assert started(bag) == [tried]


def test_order_is_remembered_over_a_restart() -> None:
    """A new bag that is told of what was put off keeps later messages behind it; a lost one is not waited for."""
    bag = Mailbag(under_way_max=64)
    first, second = message(1, job="a"), message(2, job="a")
    bag.remember([replace(first, attempts=1, next_attempt_at=LATER), message(9)])
    bag.take([second], NOW)
    assert started(bag) == []
    assert put_off(bag) == [replace(second, next_attempt_at=LATER)]
    bag.take([second], LATER + timedelta(minutes=11))
    assert started(bag) == [second]


def test_a_receiver_gets_its_share() -> None:
    """An eighth of all at once for one receiver; the rest stays free for others, in turns."""
    bag = Mailbag(under_way_max=32)
    bag.take([message(number) for number in range(50)], NOW)
    assert len(started(bag)) == 4
    bag.take([message(number, host=f"h{number % 3}.example") for number in range(50, 90)], NOW)
    assert [receiver_of(record.url)[:2] for record in started(bag)] == ["h2", "h0", "h1"] * 4
    others = [message(number, host=f"x{number}.example") for number in range(100, 150)]
    bag.take(others, NOW)
    assert len(started(bag)) == 16, "32 in all"


def test_a_strained_receiver_gets_one_at_a_time() -> None:
    """After silence or 'too much' one goes at a time, until one succeeds."""
    bag = Mailbag(under_way_max=32)
    bag.take([message(number) for number in range(50)], NOW)
    first, *others = started(bag)
    for record in others:
        delivered(bag, record, strained=True)
    delivered(bag, first, strained=True)
    (probe,) = started(bag)
    delivered(bag, probe)
    assert len(started(bag)) == 4


def test_one_receiver_cannot_fill_the_bag() -> None:
    """What waits beyond the bound is put off until about then when the others are through."""
    bag = Mailbag(under_way_max=32)
    bag.take([message(0)], NOW)
    for record in started(bag):
        bag.take([message(number) for number in range(1, WAITING_MAX + 1)], NOW)
        delivered(bag, record, took_s=20)
    bag.take([message(number) for number in range(1000, 1010)], NOW)
    late = put_off(bag)
    assert len(late) == 10
    assert bag.held_count == WAITING_MAX
    # 256 at four a time, of 4 s each (a fifth of 20), would be 256 s: no longer than a minute is believed.
    assert {record.next_attempt_at for record in late} == {NOW + timedelta(seconds=60)}
    assert all(record.attempts == 0 for record in late), "nothing was tried"
    bag.take([message(2000, host="two.example")], NOW)
    assert message(2000, host="two.example") in started(bag)


def test_held_until_the_ledger_knows() -> None:
    """A message that the ledger still shows as due is not taken again before the ledger was told."""
    bag = Mailbag(under_way_max=32)
    bag.take([message(1)], NOW)
    (record,) = started(bag)
    bag.take([message(1)], NOW)
    delivered(bag, record)
    bag.take([message(1)], NOW)
    assert started(bag) == []
    news = bag.news()
    assert (news.ended, bag.held_count) == (["msg_00001"], 1)
    bag.settle(news)
    assert bag.held_count == 0
    bag.take([message(1)], NOW)
    assert started(bag) == [record]


def test_memory_of_order_is_bounded() -> None:
    """Of more jobs than the bound, the ones known longest are forgotten."""
    bag = Mailbag(under_way_max=32)
    bag.remember([replace(message(number), next_attempt_at=LATER) for number in range(BEHIND_MAX)])
    bag.take([message(1)], NOW)
    (record,) = started(bag)
    failed(bag, record, LATER)
    assert put_off(bag)
    bag.take([message(BEHIND_MAX)], NOW)
    (record,) = started(bag)
    failed(bag, record, LATER)
    bag.take([message(BEHIND_MAX + 1, job="job_0"), message(BEHIND_MAX + 2, job="job_2")], NOW)
    assert [record.job_id for record in started(bag)] == ["job_0"]


def test_receivers_without_a_name() -> None:
    """A URL that nobody can read has a receiver as well: it must not stop the courier."""
    assert receiver_of("https://[::bad/") == "(unreadable URL)"
    assert receiver_of("https://Me:pw@Hooks.Example:8443/s3cr3t?x") == "hooks.example:8443"
