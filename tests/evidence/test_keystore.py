"""Laws of the store of item secrets, on SQLite and on PostgreSQL."""

import os
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from databases import KINDS, empty_database

from clock import ManualClock
from evidence.errors import Erased, HomeRefused, NotFound, StorageFull
from evidence.keys import HomeKeys
from evidence.keystore import KeyStore
from evidence.steps import Step, no_step
from models.digest import sm3
from models.errors import Malformed, VerificationError

Open = Callable[..., KeyStore]


def secret(n: int) -> bytes:
    return sm3(b"secret %d" % n)


def item(n: int) -> bytes:
    return sm3(b"item %d" % n)


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[Open]:
    url = empty_database(request, tmp_path / "secrets.db")
    stores: list[KeyStore] = []

    def open_store(step: Callable[[Step], None] = no_step) -> KeyStore:
        stores.append(KeyStore(url, wrapping=HomeKeys(tmp_path, clock=clock).wrapping, step=step))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


def test_secret_put_is_got_back_also_by_another_process(opened: Open) -> None:
    opened().put_many([(item(n), secret(n)) for n in range(1200)])
    store = opened()
    assert store.get(item(7)) == secret(7)
    assert store.get_many([item(n) for n in range(1200)]) == {item(n): secret(n) for n in range(1200)}
    assert store.get_many([item(5000)]) == {}
    with pytest.raises(NotFound):
        store.get(item(5000))


def test_put_is_idempotent_and_the_first_secret_stands(opened: Open) -> None:
    store = opened()
    assert store.put_many([(item(1), secret(1))]) == {}
    assert store.put_many([(item(1), secret(1)), (item(2), secret(2))]) == {}
    assert store.put_many([(item(1), secret(9)), (item(3), secret(3))]) == {item(1): secret(1)}
    assert store.get_many([item(1), item(2), item(3)]) == {item(n): secret(n) for n in (1, 2, 3)}


def test_one_item_twice_in_one_call_keeps_the_first(opened: Open) -> None:
    store = opened()
    assert store.put_many([(item(1), secret(1)), (item(1), secret(2))]) == {item(1): secret(1)}
    assert store.put_many([]) == {}


@pytest.mark.parametrize(("name", "value"), [(b"short", bytes(32)), (bytes(32), bytes(31)), (bytes(32), b"")])
def test_refuses_wrong_lengths_and_stores_nothing(opened: Open, name: bytes, value: bytes) -> None:
    store = opened()
    with pytest.raises(Malformed, match="expected 32 bytes"):
        store.put_many([(item(1), secret(1)), (name, value)])
    assert store.items() == []


def test_destroyed_secret_is_erased_and_never_comes_back(opened: Open) -> None:
    store = opened()
    store.put_many([(item(1), secret(1)), (item(2), secret(2))])
    store.destroy(item(1))
    store.destroy(item(1))
    assert store.is_destroyed(item(1))
    assert not store.is_destroyed(item(2))
    for again in (store, opened()):
        with pytest.raises(Erased):
            again.get(item(1))
        with pytest.raises(Erased):
            again.put_many([(item(3), secret(3)), (item(1), secret(1))])
    assert store.items() == [item(2)]
    assert store.get(item(2)) == secret(2)
    with pytest.raises(NotFound):
        store.destroy(item(4))
    with pytest.raises(NotFound):
        store.is_destroyed(item(4))


def test_bytes_of_a_destroyed_secret_are_in_no_file(tmp_path: Path, clock: ManualClock) -> None:
    store = KeyStore(f"sqlite:///{tmp_path}/secrets.db", wrapping=HomeKeys(tmp_path, clock=clock).wrapping)
    for start in range(0, 6000, 500):
        store.put_many([(item(n), secret(n)) for n in range(start, start + 500)])
    doomed = [item(n) for n in range(0, 6000, 311)]
    with store._reader.connect() as connection:
        rows = connection.exec_driver_sql("SELECT item, wrapped FROM secret").all()
    wrapped = {bytes(row[0]): bytes(row[1]) for row in rows}

    def stored() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.glob("secrets.db*"))

    before = stored()
    assert all(wrapped[name] in before for name in doomed)
    for name in doomed:
        store.destroy(name)
    after = stored()
    assert not any(wrapped[name] in after or wrapped[name][8:24] in after for name in doomed)
    assert all(wrapped[name] in after for name in wrapped if name not in doomed)
    store.close()


def test_secrets_without_an_item_are_swept(opened: Open) -> None:
    store = opened()
    store.put_many([(item(n), secret(n)) for n in range(2500)])
    store.destroy(item(0))
    kept = {item(n) for n in range(0, 2500, 2)}
    assert store.sweep(lambda items: [name for name in items if name in kept]) == 1250
    assert set(store.items(limit=5000)) == kept - {item(0)}
    assert store.sweep(lambda items: items) == 0
    assert store.is_destroyed(item(0))
    assert store.put_many([(item(1), secret(77))]) == {}


def test_items_are_listed_in_pages(opened: Open) -> None:
    store = opened()
    store.put_many([(item(n), secret(n)) for n in range(25)])
    first = store.items(limit=10)
    second = store.items(first[-1], limit=10)
    third = store.items(second[-1], limit=10)
    assert first + second + third == sorted(item(n) for n in range(25))
    assert store.items(third[-1]) == []


def test_altered_or_swapped_rows_do_not_open(opened: Open) -> None:
    store = opened()
    store.put_many([(item(1), secret(1)), (item(2), secret(2)), (item(3), secret(3))])
    with store._writing() as connection:
        row = connection.exec_driver_sql("SELECT wrapped FROM secret WHERE number = 1").scalar()
        assert row is not None
        wrapped = bytes(row)
        place = "?" if connection.dialect.name == "sqlite" else "%s"
        connection.exec_driver_sql(f"UPDATE secret SET wrapped = {place} WHERE number = 2", (wrapped,))
        altered = wrapped[:20] + bytes([wrapped[20] ^ 1]) + wrapped[21:]
        connection.exec_driver_sql(f"UPDATE secret SET wrapped = {place} WHERE number = 1", (altered,))
    for n in (1, 2):
        with pytest.raises(VerificationError, match="wrapped secret"):
            store.get(item(n))
    assert store.get(item(3)) == secret(3)


def test_nothing_in_the_file_is_a_secret_and_nobody_else_may_read_it(tmp_path: Path, clock: ManualClock) -> None:
    store = KeyStore(f"sqlite:///{tmp_path}/secrets.db", wrapping=HomeKeys(tmp_path, clock=clock).wrapping)
    store.put_many([(item(n), secret(n)) for n in range(100)])
    files = list(tmp_path.glob("secrets.db*"))
    assert len(files) >= 2
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        data = path.read_bytes()
        assert not any(secret(n) in data or secret(n).hex().encode() in data for n in range(100))
    store.close()


def test_secrets_of_past_months_open_and_without_their_key_do_not(tmp_path: Path, opened: Open, clock: ManualClock) -> None:
    opened().put_many([(item(1), secret(1))])
    clock.advance(40 * 86_400)
    store = opened()
    store.put_many([(item(2), secret(2))])
    assert store.get_many([item(1), item(2)]) == {item(1): secret(1), item(2): secret(2)}
    (tmp_path / "keys/kek/2026-01.key").unlink()
    fresh = opened()
    assert fresh.get(item(2)) == secret(2)
    with pytest.raises(NotFound, match=r"2026-01\.key is absent"):
        fresh.get(item(1))
    (tmp_path / "keys/kek/2026-02.key").chmod(0o644)
    with pytest.raises(HomeRefused):
        opened().get(item(2))


@pytest.mark.parametrize("step", [Step.SECRETS_BEFORE, Step.SECRETS_AFTER])
def test_dying_at_a_step_stores_all_or_nothing(opened: Open, step: Step) -> None:
    class Died(Exception):
        pass

    def die(at: Step) -> None:
        if at is step:
            raise Died

    store = opened(die)
    with pytest.raises(Died):
        store.put_many([(item(n), secret(n)) for n in range(10)])
    assert len(opened().items()) == (0 if step is Step.SECRETS_BEFORE else 10)
    assert opened().put_many([(item(n), secret(n)) for n in range(10)]) == {}
    assert opened().get(item(9)) == secret(9)


def test_committed_secrets_survive_sudden_death(tmp_path: Path, clock: ManualClock) -> None:
    url = f"sqlite:///{tmp_path}/secrets.db"
    wrapping = HomeKeys(tmp_path, clock=clock).wrapping
    KeyStore(url, wrapping=wrapping).close()
    child = os.fork()
    if child == 0:
        KeyStore(url, wrapping=wrapping).put_many([(item(1), secret(1))])
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    store = KeyStore(url, wrapping=wrapping)
    assert store.get(item(1)) == secret(1)
    store.close()


def test_full_disk_stores_nothing_and_heals(tmp_path: Path, clock: ManualClock) -> None:
    store = KeyStore(f"sqlite:///{tmp_path}/secrets.db", wrapping=HomeKeys(tmp_path, clock=clock).wrapping)
    store.put_many([(item(1), secret(1))])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(StorageFull):
            store.put_many([(item(n), secret(n)) for n in range(2, 5000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.items() == [item(1)]
    store.put_many([(item(n), secret(n)) for n in range(2, 5000)])
    assert store.get(item(4999)) == secret(4999)
    store.close()
