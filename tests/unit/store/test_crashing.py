"""Nothing a published chain needs is ever lost: random histories, stopped at random steps, and a real kill -9."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from forgekit.digest import sha256
from forgekit.errors import BrokenChainError, StoreError
from forgekit.store import audit, chain
from forgekit.store.checking import fsck
from forgekit.store.collecting import collect, plan
from forgekit.store.leasing import JOURNAL, LEASES
from forgekit.store.objects import key_of
from tests.support.running import ROOT, without_catalog
from tests.support.store import HOUR, Clock, Fuse, a_chain, a_store

RETENTION = st.sampled_from(chain.RETENTIONS)
LARGE = 10_000  # a step no operation has
WHEN = st.one_of(st.just(LARGE), st.integers(0, 12), st.integers(0, 40))
STEPS = {"count": 0}
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk would flush at each rename


class Histories(RuleBasedStateMachine):
    """Forges, publishers and collectors at one store, each stopped whenever it pleases hypothesis."""

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="forgekit-store-", dir=MEMORY))
        self.fuse, self.clock = Fuse(), Clock(tick=1.0)
        self.store = a_store(self.root / "s", clock=self.clock, step=self.fuse)
        self.heads, self.published, self.permanent = [], [], []
        self.number = itertools.count()

    def teardown(self):
        shutil.rmtree(self.root)

    def attempt(self, act, when, *, collecting=False):
        """Run something, to be stopped, or met by a collector, at one of its steps. Gives what it gave."""
        gave = []
        if collecting:
            self.fuse.during = lambda: collect(self.store, grace=0)
        stopped = self.fuse.burn(lambda: gave.append(act()), when)
        self.fuse.during = None
        return None if stopped or not gave else gave[0]

    def pick(self, data, among):
        return data.draw(st.sampled_from(among))

    @rule(data=st.data(), retention=RETENTION, when=WHEN, collecting=st.booleans(), content=st.integers(0, 3))
    def forge(self, data, retention, when, collecting, content):
        after = self.pick(data, [*self.heads[-6:], None]) if self.heads else None
        path = self.root / "made"
        path.write_bytes(b"%d" % content)
        if after is None and retention == "ephemeral":
            retention = "permanent"

        def act():
            return chain.append(
                self.store,
                chain="lab/x",
                stage=f"s{next(self.number)}",
                retention=retention,
                files={"w": path},
                after=after,
            )

        made = self.attempt(act, when, collecting=collecting)
        if made is not None:
            self.heads.append(made)
            if retention == "permanent":
                self.permanent.append(made)

    @precondition(lambda self: self.heads)
    @rule(data=st.data(), when=WHEN, collecting=st.booleans())
    def publish(self, data, when, collecting):
        head = self.pick(data, self.heads)
        try:
            self.attempt(lambda: audit.publish(self.store, "lab/x", head), when, collecting=collecting)
        except BrokenChainError:
            assert audit.breaks(self.store, head)
        self.published = [one for _, one in chain.published(self.store)]

    @precondition(lambda self: self.heads)
    @rule(data=st.data(), when=WHEN)
    def attest(self, data, when):
        head = self.pick(data, self.heads)
        try:
            self.attempt(lambda: chain.attest(self.store, head, b"passed"), when)
        except StoreError:
            assert any(self.store.size(one) is None for one, _, _ in chain.load(self.store, head).content)

    @rule(content=st.binary(max_size=3), when=WHEN, collecting=st.booleans())
    def put(self, content, when, collecting):
        if self.attempt(lambda: self.store.put(content), when, collecting=collecting) is not None and not collecting:
            assert self.store.read(sha256(content)) == content

    @rule(when=WHEN, grace=st.sampled_from((0, HOUR)))
    def collect(self, when, grace):
        self.attempt(lambda: collect(self.store, grace=grace), when)

    @rule(hours=st.sampled_from((1, 30)))
    def wait(self, hours):
        self.clock.now += hours * HOUR

    @invariant()
    def what_is_published_or_permanent_can_be_had(self):
        STEPS["count"] += 1
        for head in self.published:
            assert audit.breaks(self.store, head, verify=True) == []
        for head in self.permanent:
            assert all(not self.store.fault(one, size) for one, size, _ in chain.load(self.store, head).content)


@pytest.mark.parametrize("number", range(4))
def test_what_is_published_is_never_lost_whatever_happens_and_whenever_it_stops(number):
    before = STEPS["count"]
    run_state_machine_as_test(
        seed(number)(Histories),
        settings=settings(
            max_examples=62,
            stateful_step_count=50,
            deadline=None,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )

    assert STEPS["count"] - before >= 2_500


# --- every step, one by one ---------------------------------------------------


def steps_of(act, fuse):
    """How many steps an operation has."""
    fuse.seen.clear()
    act()
    return len(fuse.seen)


def half_forged(root):
    """A store with a chain whose middle is ephemeral and old, and what is to be done with it next."""
    fuse, clock = Fuse(), Clock(tick=1.0)
    store = a_store(root / "s", clock=clock, step=fuse)
    stages = (("source", "permanent"), ("prune", "ephemeral"), ("train", "permanent"))
    links = a_chain(store, root / "work", stages=stages)
    clock.now += 48 * HOUR
    path = root / "work" / "next"
    path.write_bytes(b"the next stage")
    acts = {
        "publish": lambda: audit.publish(store, "lab/ember", links[-1]),
        "append": lambda: chain.append(
            store, chain="lab/ember", stage="quant", retention="permanent", files={"w": path}, after=links[-1]
        ),
        "attest": lambda: chain.attest(store, links[1], b"it ran"),
        "collect": lambda: collect(store, grace=0),
    }
    return store, fuse, links, acts


@pytest.mark.parametrize("name", ["publish", "append", "attest"])
def test_a_collector_that_comes_at_any_step_of_a_writer_takes_nothing_it_needs(tmp_path, name):
    _, fuse, _, acts = half_forged(tmp_path / "count")
    for step in range(steps_of(acts[name], fuse)):
        store, fuse, links, acts = half_forged(tmp_path / str(step))
        fuse.during = lambda store=store: collect(store, grace=0)
        fuse.left = step
        try:
            acts[name]()
        except StoreError:  # the collector was first, and the writer says so
            assert name in ("publish", "attest")  # an append has put it itself
            assert not list(chain.published(store))
            assert store.size(chain.load(store, links[1]).artifact) is None
        if name == "publish" and list(chain.published(store)):
            assert audit.breaks(store, links[-1], verify=True) == []
        assert audit.breaks(store, links[-1], published=False, verify=True) == []
        assert fsck(store).faults == ()


def test_a_publisher_that_comes_at_any_step_of_a_collector_is_refused_or_loses_nothing(tmp_path):
    _, fuse, _, acts = half_forged(tmp_path / "count")
    outcomes = set()
    for step in range(steps_of(acts["collect"], fuse)):
        store, fuse, links, acts = half_forged(tmp_path / str(step))
        said = []

        def publish(act=acts["publish"], said=said):
            try:
                act()
                said.append("published")
            except BrokenChainError:
                said.append("refused")

        writer = threading.Thread(target=publish)
        fuse.during = lambda writer=writer: (writer.start(), writer.join(0.1))
        fuse.left = step
        acts["collect"]()
        writer.join()

        outcomes.add(said[0])
        if said == ["published"]:
            assert audit.breaks(store, links[-1], verify=True) == []
        assert fsck(store).faults == ()
    assert outcomes == {"published", "refused"}


@pytest.mark.parametrize("name", ["publish", "append", "attest", "collect"])
def test_whatever_is_stopped_at_any_step_leaves_a_store_that_is_whole_and_goes_on(tmp_path, name):
    _, fuse, _, acts = half_forged(tmp_path / "count")
    for step in range(steps_of(acts[name], fuse)):
        store, fuse, links, acts = half_forged(tmp_path / str(step))

        assert fuse.burn(acts[name], step)

        assert fsck(store).faults == ()
        assert audit.breaks(store, links[-1], published=False, verify=True) == []
        for _, head in chain.published(store):
            assert audit.breaks(store, head, verify=True) == []
        if name != "collect":
            acts[name]()
        collect(store, grace=0)
        assert fsck(store).faults == ()
        assert list(store.storage.listing(JOURNAL)) == []


def test_what_the_stopped_leave_behind_is_swept_a_day_later(tmp_path):
    store, fuse, _, acts = half_forged(tmp_path)
    assert fuse.burn(acts["append"], 1)
    assert fuse.burn(acts["publish"], 4)
    assert list(store.storage.listing("tmp"))
    assert list(store.storage.listing(LEASES))

    store.clock.now += 25 * HOUR
    for key, _ in list(store.storage.listing("tmp")):
        assert store.storage.sweep(older_than=60) == 0, key  # too young by the disk's own clock
    collect(store)

    assert store.storage.sweep(older_than=-1) == 1
    assert list(store.storage.listing(LEASES)) == []


# --- real processes ------------------------------------------------------------

WRITER = """
import itertools, sys
from pathlib import Path
from forgekit.store import audit, chain
from forgekit.store.collecting import collect
from forgekit.store.objects import Store
from forgekit.store.storage import LocalStorage
root, role = Path(sys.argv[1]), sys.argv[2]
store = Store(LocalStorage(root / "s", durable=False))
print("up", flush=True)
for n in itertools.count():
    if role == "collect":
        collect(store, grace=0)
        continue
    links = []
    try:
        for index, keep in enumerate(("permanent", "ephemeral", "until-superseded-and-attested", "permanent")):
            path = root / f"{role}-{index}"
            path.write_bytes(b"%d" % (n % 3 * 10 + index))
            links.append(chain.append(store, chain=f"lab/{role}", stage=f"s{n}", retention=keep, files={"w": path},
                                      after=links[-1] if links else None))
        audit.publish(store, f"lab/{role}", links[-1])
    except Exception as error:
        if "is not in the store" not in str(error) and "is broken" not in str(error):
            raise
"""


def started(root, role):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root), role],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=without_catalog(),
    )
    process.stdout.readline()
    return process


def test_processes_that_write_publish_and_collect_and_are_killed_lose_nothing():
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        root = Path(folder)
        store = a_store(root / "s", clock=time.time)
        for wait in (0.35, 0.6):
            running = [started(root, role) for role in ("one", "two", "collect", "collect")]
            time.sleep(wait)
            for process in running:
                process.send_signal(signal.SIGKILL)
            for process in running:
                assert process.communicate()[1].decode() == ""
                assert process.returncode == -signal.SIGKILL

        heads = [head for _, head in chain.published(store)]
        collect(store, grace=0)

        assert heads
        assert [line for head in heads for line in audit.breaks(store, head, verify=True)] == []
        assert fsck(store).faults == ()


def test_a_writer_waits_for_the_collector_that_condemned_what_it_puts(tmp_path):
    fuse = Fuse()
    store = a_store(tmp_path / "s", clock=Clock(tick=1.0), step=fuse)
    digest = store.put(b"once more")
    order = []

    def put_again():
        store.put(b"once more")
        order.append("put")

    writer = threading.Thread(target=put_again)

    def meanwhile():
        writer.start()
        writer.join(0.3)
        order.append("deleted" if writer.is_alive() else "put did not wait")

    delete = ("delete", key_of(digest))
    real = store.storage.step
    store.storage.step = lambda what, key: meanwhile() if (what, key) == delete and not order else real(what, key)
    collect(store, grace=0)
    writer.join()

    assert order == ["deleted", "put"]
    assert store.read(digest) == b"once more"


def test_two_writers_of_one_object_at_once_leave_it_whole(tmp_path):
    code = (
        "import sys; from pathlib import Path; from forgekit.store.objects import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "for _ in range(40): store.put_file(Path(sys.argv[2]))\n"
    )
    path = tmp_path / "file"
    path.write_bytes(os.urandom(300_000))
    command = [sys.executable, "-c", code, str(tmp_path / "s"), str(path)]
    running = [subprocess.Popen(command, cwd=ROOT, env=without_catalog()) for _ in range(3)]

    assert [process.wait() for process in running] == [0, 0, 0]

    store = a_store(tmp_path / "s")
    assert fsck(store).faults == ()
    assert store.read(sha256(path.read_bytes())) == path.read_bytes()
    assert list(store.storage.listing("tmp")) == list(store.storage.listing(LEASES)) == []


def test_a_dry_run_changes_nothing_and_says_why_of_everything(tmp_path):
    store, fuse, _, _ = half_forged(tmp_path)
    fuse.seen.clear()

    decisions = plan(store, grace=0)

    assert fuse.seen == []
    assert all(one.reason for one in decisions)
    assert {one.digest for one in decisions} == {digest for digest, _ in store.objects()}


def test_a_store_whose_records_cannot_be_read_is_not_collected(tmp_path):
    store, _, links, _ = half_forged(tmp_path)
    (store.storage.root / key_of(links[0])).unlink()
    before = list(store.objects())

    with pytest.raises(StoreError, match="what it needs is unknown and nothing is collected"):
        collect(store, grace=0)

    assert list(store.objects()) == before
