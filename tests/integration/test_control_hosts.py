"""Origin hosts in the scheduler's hands: who waits for one is in nobody's way, and one that refuses us rests."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from control_rig import HandAgent, Rig, rig_with

from rayhaul.job import JobStatus
from rayhaul.ledger.base import Role, Viewer
from rayhaul.origins import HostUse, host_of

SLOW, FINE = "https://slow.example/file.bin", "https://fine.example/file.bin"


def hosts_of(agent: HandAgent) -> Counter[str]:
    return Counter(host_of(order.url) for order in agent.transfers)


async def looked_at(rig: Rig, agent: HandAgent) -> None:
    """Have the metadata of all that the agent looks at, and what can start started."""
    for _ in range(3):
        for order in agent.probes:
            if order.order_id not in {ends for _, ends in agent.waiting.values()}:
                agent.tell_found(order, final_url=order.url)
        await rig.beat()


async def test_a_full_host_holds_nobody_up() -> None:
    """Two connections a host: two of its jobs run, three stand aside and say so, those of another host go by; as soon
    as one has ended the next one starts.
    """
    async with rig_with(hosts={"connections_max": 2}, agent={"slots": 8}) as rig:
        (agent,) = await rig.begin(1)
        slow = await rig.submit(5, url=SLOW)
        await looked_at(rig, agent)
        await rig.submit(2, url=FINE, user="bob")
        await looked_at(rig, agent)
        assert hosts_of(agent) == {"slow.example:443": 2, "fine.example:443": 2}
        assert (len(rig.book.held_back), len(rig.book.waiting)) == (3, 0)
        waiting = next(job_id for job_id in slow if job_id not in agent.job_ids)
        state = await rig.scheduler.job_state(waiting)
        assert state.waits_for == "a connection: the cluster has all it may have at slow.example:443"
        assert sum((await rig.scheduler.queue()).depth.values()) == 3
        assert sum(grant.connections for grant in agent.granted.values()) == 4
        shown = await rig.scheduler.hosts(Viewer("bob"))
        assert [(host.host, host.jobs_waiting) for host in shown] == [("fine.example:443", 0)]
        await rig.restart()
        await rig.live(2)
        assert (len(rig.book.held_back), hosts_of(agent)["slow.example:443"]) == (3, 2)
        agent.tell_done(agent.order_of(next(job_id for job_id in slow if job_id in agent.job_ids)))
        await rig.live(2)
        assert (len(rig.book.held_back), hosts_of(agent)["slow.example:443"]) == (2, 2)


def heed(agents: Sequence[HandAgent]) -> None:
    """Have agents go by what they were told, and say so."""
    for agent in agents:
        agent.uses = tuple(
            HostUse(host=grant.host, connections=0, granted=grant.connections, version=grant.version)
            for grant in agent.granted.values()
        )


async def test_a_look_is_for_an_agent_with_a_connection() -> None:
    """A host bears two connections, and two agents have one each: a look there waits for one of them, and is nothing
    for the idle one, which would have none for as long as they have.
    """
    async with rig_with(hosts={"connections_max": 2}, agent={"slots": 1, "probe_slots": 1}) as rig:
        busy = await rig.begin(2)
        await rig.submit(2, url=SLOW)
        for agent in busy:
            await looked_at(rig, agent)
        # Ties go by name.
        idle = rig.enter("agent-0")
        for number in range(3):
            await rig.submit(1, url=f"https://fine-{number}.example/file.bin")
        for _ in range(3):
            heed(busy)
            await rig.beat()
        assert [agent.granted["slow.example:443"].connections for agent in busy] == [1, 1]
        assert [len(agent.probes) for agent in (idle, *busy)] == [1, 1, 1]

        (job_id,) = await rig.submit(1, url=SLOW)
        await looked_at(rig, idle)
        assert not idle.probes
        assert str((await rig.scheduler.job_state(job_id)).waits_for).startswith("a connection")
        busy[1].find_all()
        await rig.beat()
        await rig.beat()
        (order,) = busy[1].probes
        assert (order.context.job_id, order.grant) == (job_id, busy[1].granted["slow.example:443"])


async def test_a_host_that_asks_to_be_left_alone() -> None:
    """After a refusal nothing is started there, not even a look, until its time is over; every agent is told, and other
    hosts are as they were.
    """
    async with rig_with(hosts={"connections_max": 8, "regrow_s": 5}, agent={"slots": 8}) as rig:
        first, second = await rig.begin(2)
        await rig.submit(1, url=SLOW)
        await looked_at(rig, first)
        await looked_at(rig, second)
        holder = first if first.transfers else second
        holder.uses = (
            HostUse(host="slow.example:443", connections=8, granted=8, version=1, refused_ago_s=0.2, pause_s=30.0),
        )
        await rig.beat()
        holder.uses = (HostUse(host="slow.example:443", connections=0, granted=4, version=9),)
        await rig.beat()
        grant = holder.granted["slow.example:443"]
        assert (grant.connections, 28 < grant.pause_s <= 30) == (4, True)
        (looking,) = await rig.submit(1, url=SLOW)
        (other,) = await rig.submit(1, url=FINE)
        for agent in (first, second, first, second):
            await looked_at(rig, agent)
        assert not first.probes
        assert not second.probes
        assert (await rig.status(other)) is JobStatus.DOWNLOADING
        state = await rig.scheduler.job_state(looking)
        assert str(state.waits_for).startswith("its host, which asked not to be asked before ")
        shown = {host.host: host for host in await rig.scheduler.hosts(Viewer("olga", Role.OPERATOR))}
        slow, fine = shown["slow.example:443"], shown["fine.example:443"]
        assert (slow.connections_max, slow.backing_off_until is not None) == (4, True)
        assert (fine.connections_max, fine.backing_off_until) == (8, None)
        await rig.live(31)
        assert [order.context.job_id for order in (*first.probes, *second.probes)] == [looking]


async def test_a_host_that_only_leads_on() -> None:
    """Nobody has bytes of it, so nobody has a share; who asks it all the same is told that it rests, and how long."""
    async with rig_with(hosts={"connections_max": 8}) as rig:
        first, second = await rig.begin(2)
        quiet = rig.enter("agent-3")
        asks = HostUse(host="door.example:443", connections=0, granted=0, version=0)
        first.uses = (replace(asks, refused_ago_s=0.1, pause_s=30.0),)
        second.uses = (asks,)
        await rig.beat()
        await rig.beat()
        for agent in (first, second):
            assert 28 < agent.granted["door.example:443"].pause_s <= 30
        assert "door.example:443" not in quiet.granted
        (shown,) = await rig.scheduler.hosts(Viewer("olga", Role.OPERATOR))
        assert (shown.host, shown.connections_max, shown.backing_off_until is not None) == ("door.example:443", 4, True)
        first.uses = (asks,)
        await rig.live(31)
        assert first.granted == {}


async def test_a_look_that_waits_in_vain_goes_to_another_agent() -> None:
    """Two agents have a connection each, and a look besides; then the host bears one alone. Who has none of it gives
    its look back at once, for the other one to make.
    """
    async with rig_with(hosts={"connections_max": 2}, agent={"slots": 2, "probe_slots": 1}) as rig:
        kept, lost = await rig.begin(2)
        await rig.submit(2, url=SLOW)
        for agent in (kept, lost):
            await looked_at(rig, agent)
        assert [len(agent.transfers) for agent in (kept, lost)] == [1, 1]
        # So that the look is not for it.
        (other_id,) = await rig.submit(1, url=FINE)
        await rig.beat()
        (job_id,) = await rig.submit(1, url=SLOW)
        for _ in range(3):
            heed([kept, lost])
            await rig.beat()
        assert [[order.context.job_id for order in agent.probes] for agent in (kept, lost)] == [[other_id], [job_id]]
        lost.uses = tuple(
            replace(use, refused_ago_s=0.1) if use.host == "slow.example:443" else use for use in lost.uses
        )
        await rig.beat()
        kept.find_all()
        for _ in range(4):
            heed([kept, lost])
            await rig.beat()
        assert [agent.granted["slow.example:443"].connections for agent in (kept, lost)] == [1, 0]
        assert [[order.context.job_id for order in agent.probes] for agent in (kept, lost)] == [[job_id], []]
        assert kept.probes[0].grant == kept.granted["slow.example:443"]
        kept.find_all()
        await rig.beat()
        assert (await rig.job(job_id)).metadata is not None
