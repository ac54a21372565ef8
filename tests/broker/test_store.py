"""Both stores keep the same promises; the one on disk keeps them over crashes, too."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import park.broker.storage.filesystems
from park.broker.effects import Key, Ref, Write
from park.broker.storage import memory
from park.broker.storage.filesystems import network_file_system
from park.broker.storage.keys import MAX_KEY_BYTES, decode_key, encode_key
from park.broker.storage.memory import MemoryStore
from park.broker.storage.pieces import PIECE_BYTES
from park.broker.storage.store import NAMESPACES, OWN_NAMESPACES, SCHEMA, JobStore, Store
from park.errors import StoreError
from park.util.sealed import descriptor_of, sealed

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else JobStore(tmp_path / "home")
    yield made
    made.close()


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Another Python with park on its path and `JobStore`, `Write`, `StoreError` and `sys` imported."""
    head = """
import sys
from park.broker.effects import Write
from park.broker.storage.store import JobStore
from park.errors import StoreError
"""
    return subprocess.Popen(
        [sys.executable, "-c", head + script, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


# -- keys ------------------------------------------------------------------------------------------

parts = st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=20) | st.text(max_size=8)
keys = st.lists(parts, max_size=4).map(tuple)


def order(key: Key) -> list[tuple[int, int | bytes | str]]:
    """The order that keys are meant to have."""
    return [(0 if isinstance(p, int) else 1 if isinstance(p, bytes) else 2, p) for p in key]


@given(keys)
def test_a_key_comes_back(key: Key) -> None:
    assert decode_key(encode_key(key)) == key


@given(keys, keys)
def test_encoded_keys_sort_as_tuples_do(one: Key, other: Key) -> None:
    assert (encode_key(one) < encode_key(other)) == (order(one) < order(other))


@given(keys, keys)
def test_an_encoded_prefix_is_a_prefix_of_nothing_else(one: Key, other: Key) -> None:
    assert encode_key(other).startswith(encode_key(one)) == (other[: len(one)] == one)


@given(st.binary(max_size=30))
def test_bytes_that_are_no_key_are_refused(raw: bytes) -> None:
    try:
        key = decode_key(raw)
    except StoreError:
        return
    assert encode_key(key) == raw or b"\x00" in raw  # a lone 00 is not how we write it


@pytest.mark.parametrize("key", [(2**63,), (None,), (1.5,), ("\ud800",), (b"x" * (MAX_KEY_BYTES + 1),)])
def test_what_cannot_be_a_key_is_refused(key: Key) -> None:
    with pytest.raises(StoreError, match="the key"):
        encode_key(key)


# -- both stores -----------------------------------------------------------------------------------


def test_what_was_committed_is_there(store: Store) -> None:
    store.commit([Write("job", (1,), b"one"), Write("blob", (b"h",), memoryview(b"code"))])

    assert store.get("job", (1,)) == b"one"
    assert store.get("blob", (b"h",)) == b"code"
    assert store.get("job", (2,)) is None
    assert store.get("results", (1,)) is None


def test_the_last_write_of_a_key_counts_and_none_deletes(store: Store) -> None:
    store.commit([Write("job", (1,), b"a"), Write("job", (1,), b"b"), Write("job", (2,), b"")])
    store.commit([Write("job", (1,), None), Write("job", (3,), None)])
    store.commit([])

    assert list(store.scan("job")) == [((2,), b"")]
    assert store.count("job") == 1


def test_a_scan_goes_in_order_and_stops_at_its_prefix(store: Store) -> None:
    wanted = [((7, unit), b"%d" % unit) for unit in range(3000)]  # more than a batch
    others = [Write("units", (job,), b"") for job in (6, 8)]
    store.commit([*others, *(Write("units", key, value) for key, value in reversed(wanted))])

    assert list(store.scan("units", (7,))) == wanted
    assert list(store.scan("units", (7, 5))) == wanted[5:6]
    assert list(store.scan("units", (9,))) == []
    assert [key for key, _ in store.scan("units")] == [(6,), *(key for key, _ in wanted), (8,)]
    assert store.count("units", (7,)) == 3000
    assert store.count("units") == 3002


def test_commits_may_come_while_a_scan_is_read(store: Store) -> None:
    store.commit([Write("results", (n,), b"") for n in range(2000)])

    seen = []
    for (n,), _ in store.scan("results"):
        seen.append(n)
        if n % 10 == 9:
            store.commit([Write("results", (k,), None) for k in range(n - 9, n + 1)])

    assert seen == list(range(2000))
    assert store.count("results") == 0


def test_large_values(store: Store) -> None:
    value = bytes(range(256)) * (5 << 12)  # 5 MiB
    store.commit([Write("blob", (n,), value) for n in range(3)])

    assert [(key, found[:]) for key, found in store.scan("blob")] == [((n,), value) for n in range(3)]
    assert [store.get("blob", (n,)) == value for n in range(4)] == [True, True, True, False]
    store.commit([Write("blob", (1,), b"short"), Write("blob", (2,), None)])
    assert store.get("blob", (1,)) == b"short"
    assert store.get("blob", (0,)) == value


@pytest.mark.parametrize(
    "bad", [Write("kitchen", (1,), b""), Write("job", (None,), b""), Write("job", (2,), Ref("units", (1,)))]
)  # type: ignore[arg-type]
def test_a_write_that_cannot_be_changes_nothing(store: Store, bad: Write) -> None:
    with pytest.raises(StoreError):
        store.commit([Write("job", (1,), b"x"), bad])

    assert store.get("job", (1,)) is None


def test_an_unknown_room_is_named(store: Store) -> None:
    for ask in (lambda: store.get("kitchen", (1,)), lambda: list(store.scan("kitchen"))):
        with pytest.raises(StoreError, match=r"'kitchen'.*units"):
            ask()


def test_identity_and_epochs(store: Store) -> None:
    assert len(store.id) == 32
    assert int(store.id, 16) >= 0
    assert store.epoch == 0
    assert [store.open_epoch(), store.open_epoch()] == [1, 2]
    assert store.epoch == 2


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()

    for ask in (lambda: store.commit([Write("job", (1,), b"")]), lambda: store.get("job", (1,))):
        with pytest.raises(StoreError, match="closed"):
            ask()
    assert "closed" in repr(store)


writes = st.builds(
    Write,
    st.sampled_from(["job", "units"]),
    st.tuples(st.integers(0, 3), st.sampled_from([0, 1, b"", b"\x00", b"a", "", "a"])),
    st.none() | st.binary(max_size=3),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(writes, max_size=8), max_size=8))
def test_a_store_is_a_sorted_map(store: Store, commits: list[list[Write]]) -> None:
    store.commit(
        [
            Write(namespace, key, None)
            for namespace in ("job", "units")
            for key, _ in list(store.scan(namespace))
        ]
    )
    expected: dict[str, dict[Key, bytes]] = {"job": {}, "units": {}}
    for commit in commits:
        store.commit(commit)
        for write in commit:
            expected[write.namespace].pop(write.key, None)
            if write.value is not None:
                expected[write.namespace][write.key] = bytes(write.value)
        for namespace, records in expected.items():
            in_order = sorted(records.items(), key=lambda item: order(item[0]))
            assert list(store.scan(namespace)) == in_order
            for first in range(4):
                assert list(store.scan(namespace, (first,))) == [r for r in in_order if r[0][0] == first]
                assert store.count(namespace, (first,)) == sum(key[0] == first for key in records)


# -- on disk ---------------------------------------------------------------------------------------


def pieces(store: JobStore) -> tuple[int, int]:
    """The number of pieces of long values, and of values that no record names."""
    return store.count("piece"), store.count("draft")


def random_bytes(megabytes: int) -> bytes:
    return os.urandom(megabytes << 20)


def test_a_long_value_is_read_slice_by_slice(tmp_path: Path) -> None:
    store, value = JobStore(tmp_path), random_bytes(3)
    store.commit([Write("results", (1, 0), memoryview(value))])
    found = store.find("results", (1, 0))
    assert len(found) == len(value)
    for start in (0, 1, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 5, len(value)):
        for size in (0, 1, 77, PIECE_BYTES, 3 * PIECE_BYTES):
            assert found[start : start + size] == value[start : start + size]
    assert found[:] == value
    assert pieces(store) == (-(-len(value) // PIECE_BYTES), 0)
    store.close()


def test_whoever_reads_a_long_value_reads_to_its_end_though_it_is_replaced(tmp_path: Path) -> None:
    store, old, new = JobStore(tmp_path), random_bytes(2), random_bytes(3)
    store.commit([Write("file", (1, "a"), old)])
    found = store.find("file", (1, "a"))
    assert found[:10] == old[:10]
    store.commit([Write("file", (1, "a"), new)])
    store.commit([Write("file", (1, "a"), None)])
    assert found[:] == old
    assert pieces(store) == (-(-len(old) // PIECE_BYTES), 1)
    del found
    store.commit([Write("job", (1,), b"whatever comes next")])
    assert pieces(store) == (0, 0)
    store.close()


def test_a_draft_becomes_a_record_or_goes(tmp_path: Path) -> None:
    store, value = JobStore(tmp_path), random_bytes(2)
    kept, left, half = (store.new_draft(len(value)) for _ in range(3))
    store.commit([*kept.writes(value), *left.writes(value), *half.writes(value, 0, 2 * PIECE_BYTES)])
    assert kept[:] == value
    with pytest.raises(StoreError, match="is missing"):
        half[:]
    store.commit([Write("units", (1, 0), kept), Write("units", (2, 0), kept)])  # type: ignore[arg-type]
    del left, half
    store.commit([Write("job", (1,), b"")])
    assert pieces(store) == (2 * -(-len(value) // PIECE_BYTES), 0)
    store.commit([Write("units", (1, 0), None)])
    assert store.get("units", (2, 0)) == value
    gone = store.new_draft(len(value))
    store.commit(gone.writes(value))
    store.close()

    again = JobStore(tmp_path)  # a draft goes with the process that made it
    again.open_epoch()
    assert pieces(again) == (-(-len(value) // PIECE_BYTES), 0)
    assert again.get("units", (2, 0)) == value
    again.commit([Write("units", (3, 0), value)])
    assert again.get("units", (2, 0)) == again.get("units", (3, 0)) == value
    again.close()


def test_a_damaged_piece_is_named(tmp_path: Path) -> None:
    store, value = JobStore(tmp_path), b"park" * (1 << 19)
    store.commit([Write("results", (1, 0), value)])
    store.close()
    file = tmp_path / "jobs.mdb"
    raw = bytearray(file.read_bytes())
    at = raw.rindex(b"parkparkparkpark")
    raw[at] ^= 1
    file.write_bytes(raw)

    again = JobStore(tmp_path)
    with pytest.raises(StoreError, match=r"in namespace 'piece' of the store is damaged"):
        again.get("results", (1, 0))
    again.close()


def test_sizes_that_come_again_do_not_let_the_file_grow(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    sizes = []
    for turn in range(7):
        writes = [Write("results", (turn, n), bytes((n + 2) << 20)) for n in range(4)]
        store.commit([*writes, Write("job", (turn,), bytes(100))])
        store.commit([Write(write.namespace, write.key, None) for write in writes])
        store.commit([Write("job", (turn,), bytes(50))])
        sizes.append((tmp_path / "jobs.mdb").stat().st_size)
    assert sizes[2] == sizes[-1], sizes
    store.close()


def test_pages_that_were_read_do_not_stay_the_process_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobStore, "_MAPPED", 4 << 20)
    store = JobStore(tmp_path)
    values = [random_bytes(6) for _ in range(4)]
    store.commit([Write("results", (1, n), value) for n, value in enumerate(values)])
    before = mapped()
    assert [store.get("results", (1, n)) for n in range(4)] == values
    assert mapped() - before < 16 << 20
    store.close()


def mapped() -> int:
    """Bytes of pages of files that count as this process's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))


def test_a_store_comes_back(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.open_epoch()
    namespaces = [namespace for namespace in NAMESPACES if namespace not in OWN_NAMESPACES]
    store.commit([Write(namespace, ("k", 1), namespace.encode()) for namespace in namespaces])
    identity = store.id
    store.close()

    again = JobStore(tmp_path)
    assert (again.id, again.epoch) == (identity, 1)
    assert {namespace: again.get(namespace, ("k", 1)) for namespace in namespaces} == {
        namespace: namespace.encode() for namespace in namespaces
    }
    assert repr(again) == f"<JobStore {tmp_path} [1 jobs] epoch 1>"
    again.close()


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    JobStore(home).close()

    assert home.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in home.iterdir()} == {0o600}


def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    writer = child(
        """
store = JobStore(sys.argv[1])
for n in range(1_000_000):
    store.commit([Write("job", (n,), b"x" * 100), Write("results", (n, 0), b"y" * (n % 7) * 1000)])
    print(n, flush=True)
""",
        tmp_path,
    )
    assert writer.stdout is not None
    acknowledged = -1
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged == 200:
            writer.kill()  # while it goes on; what is still in the pipe was acknowledged, too
    writer.communicate()

    store = JobStore(tmp_path)
    jobs = [key[0] for key, _ in store.scan("job")]
    assert acknowledged >= 200
    assert jobs == list(range(len(jobs)))
    assert len(jobs) in (acknowledged + 1, acknowledged + 2)
    assert [(key[0], len(v)) for key, v in store.scan("results")] == [(n, n % 7 * 1000) for n in jobs]
    store.close()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    holder = child("store = JobStore(sys.argv[1])\nprint('open', flush=True)\nsys.stdin.read()\n", tmp_path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"

    with pytest.raises(StoreError, match=rf"another broker \(process {holder.pid}\) has the home {tmp_path}"):
        JobStore(tmp_path)

    holder.kill()
    holder.communicate()
    JobStore(tmp_path).close()


def test_a_second_store_in_one_process_is_refused(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    with pytest.raises(StoreError, match="another broker"):
        JobStore(tmp_path)
    assert store.get("job", (1,)) is None
    store.close()


def test_the_map_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JobStore, "_FIRST_SIZE", 1 << 20)
    store = JobStore(tmp_path)
    store.commit([Write("blob", (0,), b"x" * (9 << 20))])
    for n in range(1, 40):
        store.commit([Write("blob", (n,), b"%d" % n * (200 << 10))])
    store.close()

    again = JobStore(tmp_path)  # with a map that is smaller than the file
    again.commit([Write("job", (1,), b"goes on")])
    assert [len(value) for _, value in again.scan("blob")][:3] == [9 << 20, 200 << 10, 200 << 10]
    assert again.count("blob") == 40
    again.close()


def test_others_read_while_one_writes_and_the_map_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobStore, "_FIRST_SIZE", 1 << 20)
    store = JobStore(tmp_path)
    written = threading.Event()
    problems: list[object] = []

    def read() -> None:
        while not written.is_set():
            try:
                units = [key[0] for key, _ in store.scan("units")]
                if units != list(range(len(units))):
                    problems.append(units)
            except StoreError as error:
                problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for n in range(200):
        store.commit([Write("units", (n,), b"x" * 20_000)])
    written.set()
    for reader in readers:
        reader.join()

    assert problems == []
    store.close()


def damage(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.commit([Write("results", (12, 7), b"a result to damage"), Write("results", (12, 8), b"sound")])
    store.close()
    damage(tmp_path / "jobs.mdb", lambda data: data.replace(b"a result to damage", b"a result to dam\x00ge"))

    store = JobStore(tmp_path)
    with pytest.raises(StoreError, match=r"\(12, 7\) in namespace 'results' .* damaged"):
        store.get("results", (12, 7))
    with pytest.raises(StoreError, match=r"\(12, 7\)"):
        list(store.scan("results"))
    assert store.get("results", (12, 8)) == b"sound"
    store.close()


def test_a_record_under_another_key_is_damaged(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.commit([Write("job", (b"one key",), b"value")])
    store.close()
    damage(tmp_path / "jobs.mdb", lambda data: data.replace(b"one key", b"two key"))

    store = JobStore(tmp_path)
    with pytest.raises(StoreError, match="two key"):
        store.get("job", (b"two key",))
    store.close()


@pytest.mark.parametrize("content", [b"abc", b"no database " * 10_000, bytes(8192)])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "jobs.mdb").write_bytes(content)

    with pytest.raises(StoreError, match="damaged, or no store"):
        JobStore(tmp_path)
    (tmp_path / "jobs.mdb").unlink()
    JobStore(tmp_path).close()  # the lock was let go


def test_a_file_that_was_cut_short_is_an_error_in_words(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.commit([Write("blob", (n,), b"%d" % n * 30_000) for n in range(50)])
    store.close()
    damage(tmp_path / "jobs.mdb", lambda data: data[:500_000])

    script = """
try:
    store = JobStore(sys.argv[1])
    print(len(list(store.scan("blob"))))
except StoreError as error:
    print("refused:", error)
"""
    reader = child(script, tmp_path)  # in a process of its own: it must not die of a bus error
    said, _ = reader.communicate()
    assert reader.returncode == 0
    assert "damaged" in said


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.commit([Write("meta", ("schema",), b"%d" % (SCHEMA + 1)), Write("job", (1,), b"kept")])
    store.close()

    with pytest.raises(
        StoreError, match=rf"newer PARK \(its schema is {SCHEMA + 1}, this one knows {SCHEMA}\)"
    ):
        JobStore(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match=r"cannot open the store in .*file/home: Not a directory"):
        JobStore(tmp_path / "file" / "home")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    if not hasattr(os, "geteuid"):
        pytest.skip("folders have no owners here")
    tmp_path.chmod(0o555)
    # root may write anywhere, so the child becomes nobody where it can
    script = """
import os
if os.geteuid() == 0:
    os.setgroups([])
    os.setuid(65534)
try:
    JobStore(sys.argv[1])
except StoreError as error:
    print(error)
"""
    opener = child(script, tmp_path)
    said, _ = opener.communicate()
    tmp_path.chmod(0o755)
    assert said.startswith("cannot open the store in ")
    assert said.endswith("Permission denied: name a home that you may write to\n")


def test_a_store_is_for_its_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o775)
    JobStore(home).close()
    (home / "jobs.mdb").chmod(0o664)
    JobStore(home).close()
    modes = {path.name: path.stat().st_mode & 0o777 for path in (home, *home.iterdir())}
    assert modes == {"home": 0o700, "jobs.mdb": 0o600, "jobs.mdb-lock": 0o600, "broker.lock": 0o600}


@pytest.mark.parametrize(("mode", "file"), [(0o1777, ""), (0o755, "thesis.tex")])
def test_a_folder_for_all_or_for_other_things_is_no_home_and_stays_as_it_is(
    mode: int, file: str, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    if file:
        (shared / file).touch()
    shared.chmod(mode)
    with pytest.raises(
        StoreError, match=rf"others can get at .*shared \(its mode is {mode:04o}\).*name a new"
    ):
        JobStore(shared)
    assert shared.stat().st_mode & 0o7777 == mode
    assert [path.name for path in shared.iterdir()] == [file] * bool(file)


def test_a_home_of_another_user_is_refused_whatever_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: home.stat().st_uid + 1)
    with pytest.raises(
        StoreError, match=r"home belongs to user \d+, who can get at it.*name a folder of your own"
    ):
        JobStore(home)
    assert not list(home.iterdir())


def test_a_full_disk_is_said_and_got_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(tmp_path)
    store.commit([Write("job", (1,), b"there"), Write("job", (2,), b"there")])

    with monkeypatch.context() as patched:
        patched.setattr(JobStore, "_free", lambda store: 10_000)
        with pytest.raises(
            StoreError, match=f"cannot write to the store in {tmp_path}: the disk is full"
        ) as e:
            store.commit([Write("job", (3,), b"too much")])
        assert e.value.errno == errno.ENOSPC
        assert store.get("job", (1,)) == b"there"
        store.commit([Write("job", (1,), None)])  # how room is made
        assert store.open_epoch() == 1  # how a broker comes back

    store.commit([Write("job", (3,), b"room again")])
    assert [key for key, _ in store.scan("job")] == [(2,), (3,)]
    store.close()


def test_after_an_error_of_the_disk_nothing_more_is_written(tmp_path: Path) -> None:
    script = """
import resource
store = JobStore(sys.argv[1])
store.commit([Write("job", (1,), b"there")])
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
for size in (4 << 20, 10):
    try:
        store.commit([Write("job", (2,), b"x" * size)])
    except StoreError as error:
        print(error)
print(store.get("job", (1,)), store.get("job", (2,)))
"""
    writer = child(script, tmp_path)
    said, _ = writer.communicate()
    first, second, read = said.splitlines()
    assert first.startswith(f"cannot write to the store in {tmp_path}: ")
    assert second == first
    assert read == "b'there' None"

    store = JobStore(tmp_path)
    assert [key for key, _ in store.scan("job")] == [(1,)]
    store.close()


# -- file systems ----------------------------------------------------------------------------------

MOUNTS = r"""
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:26 / /home rw shared:2 master:1 - nfs4 head:/export/home rw,vers=4.2
31 30 8:1 / /home/local rw - xfs /dev/sda1 rw
32 22 0:40 / /my\040data rw - cifs //server/share rw
33 22 0:41 / /scratch rw - lustre mgs@tcp:/lustre rw
34 22 0:42 / /remote rw - fuse.sshfs me@host: rw
35 22 0:43 / /over rw - nfs head:/over rw
36 22 0:44 / /over rw - tmpfs tmpfs rw
37 22 0:45 / /box rw - fuse.mine mine rw
a line that nobody can read
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/park", None),
        ("/home/me/park", "nfs4"),
        ("/home", "nfs4"),
        ("/homes/me", None),
        ("/home/local/me", None),
        ("/my data/park", "cifs"),
        ("/scratch/me", "lustre"),
        ("/remote", "fuse.sshfs"),
        ("/over/park", None),
        ("/box/park", None),
    ],
)
def test_network_file_systems_are_known(folder: str, kind: str | None) -> None:
    assert network_file_system(Path(folder), MOUNTS) == kind


def test_a_home_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = f"22 1 0:1 / / rw - ext4 /dev/sda rw\n30 22 0:26 / {tmp_path} rw - nfs4 head:/export rw"
    monkeypatch.setattr(park.broker.storage.filesystems, "_mountinfo", lambda: mounts)
    monkeypatch.setenv("USER", "alice")

    with pytest.raises(StoreError, match=r"network file system \(nfs4\).*local disk.*/var/tmp/park-alice"):
        JobStore(tmp_path / "home")
    assert not (tmp_path / "home").exists()


WRITER = """
import errno, resource, sys
from pathlib import Path
from park.broker.effects import Write
from park.broker.storage.store import JobStore
from park.errors import StoreError
store = JobStore(Path(sys.argv[1]))
store.commit([Write("submit", (1,), b"x" * 100_000)])
size = (Path(sys.argv[1]) / "jobs.mdb").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
try:
    for n in range(2, 500):
        store.commit([Write("submit", (n,), b"y" * 100_000)])
    print("no limit")
except StoreError as error:
    print(error.errno == errno.ENOSPC, error)
print("reads", len(store.get("submit", (1,))))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.commit([Write("submit", (1,), None)])
print("goes on", store.get("submit", (1,)) is None)
"""


def test_a_limit_of_the_file_counts_as_a_full_disk(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert "True" in done.stdout, done.stdout + done.stderr
    assert "File too large" in done.stdout or "the disk is full" in done.stdout
    assert "reads 100000" in done.stdout, done.stdout + done.stderr
    assert "goes on True" in done.stdout, done.stdout + done.stderr


def test_a_reader_that_was_killed_keeps_no_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("park.broker.storage.store.READER_CHECK_SECONDS", 0.0)
    store = JobStore(tmp_path)
    store.commit([Write("submit", (0,), b"x" * 100_000)])
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import lmdb, sys, time; env = lmdb.open(sys.argv[1], subdir=False, lock=True, max_dbs=99, "
            "map_size=1 << 40); txn = env.begin(); print(txn.id(), flush=True); time.sleep(60)",
            str(tmp_path / "jobs.mdb"),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline()
    finally:
        reader.kill()
        reader.wait()
        reader.stdout.close()  # type: ignore[union-attr]
    sizes = []
    for n in range(60):
        store.commit([Write("submit", (0,), bytes([n]) * 100_000)])
        sizes.append((tmp_path / "jobs.mdb").stat().st_size)
    assert sizes[-1] <= sizes[5], "pages are used again"
    store.close()


def test_few_values_in_memory_stay_in_the_files_in_which_they_came() -> None:
    """Given more long values than a store keeps files for, all are right when they are read, and few files are open."""
    store = MemoryStore()
    before = len(os.listdir("/dev/fd"))
    values = [os.urandom(1 << 18) for _ in range(2 * memory.MAX_FILES)]
    for number, value in enumerate(values):
        store.commit([Write("results", (1, number), sealed(value))])
    assert len(os.listdir("/dev/fd")) <= before + 2 * memory.MAX_FILES
    assert [store.get("results", (1, number)) for number in range(len(values))] == values
    assert [value for _, value in store.scan("results")] == values
    newest = store.find("results", (1, len(values) - 1))
    assert descriptor_of(newest) >= 0
    store.commit([Write("results", (1, number), None) for number in range(len(values))])
    del newest
    for number in range(memory.MAX_FILES + 1):  # what was deleted is no longer there to be copied
        store.commit([Write("results", (2, number), sealed(values[0]))])
    store.close()
    del store
    assert len(os.listdir("/dev/fd")) == before
