"""Jobs in SQLite: taken once, ended once, never lost."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from rapiddraw.serve.store import Full, JobStore, NewJob


def added(store: JobStore, **values: object) -> str:
    return store.add(NewJob(**{"owner": "a", "name": "g", "graph": {}, **values}), 1000, 1000)[0].id


@pytest.fixture
def store(tmp_path):
    opened = JobStore(tmp_path / "jobs.sqlite")
    yield opened
    opened.close()


def test_order_is_by_priority_then_age(store):
    ids = [added(store, priority=priority) for priority in (0, 5, 0, 5)]
    assert [store.claim().id for _ in range(4)] == [ids[1], ids[3], ids[0], ids[2]] and store.claim() is None


def test_many_workers_take_each_job_once(store):
    ids = {added(store) for _ in range(60)}
    taken: list[str] = []

    def work() -> None:
        while (job := store.claim()) is not None:
            taken.append(job.id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 60 and set(taken) == ids


def test_a_job_ends_once(store):
    added(store)
    job = store.claim()
    assert store.finish(job, {"2": {}}, {"output/a.png": 5}) and not store.finish(job, {}, {})
    assert not store.fail(job, {"type": "x"}) and store.get(job.id).files == {"output/a.png": 5}


def test_a_killed_process_loses_nothing(tmp_path):
    """The second attempt is the last one, and the first attempt's late result is refused."""
    path = tmp_path / "jobs.sqlite"
    first = JobStore(path)
    waiting, running = added(first), added(first, priority=1)
    claimed = first.claim()
    assert claimed.id == running  # the process is killed here: nothing is closed
    second = JobStore(path)
    assert [job.id for job in second.recover()] == [running]
    again = second.claim()
    assert (again.id, again.attempt) == (running, 2)
    assert not second.finish(claimed, {}, {}) and second.finish(again, {}, {})
    assert second.claim().id == waiting


def test_a_job_that_kills_its_worker_twice_fails(store):
    added(store)
    assert store.give_back(store.claim(), "the worker died") == "queued"
    last = store.claim()
    assert store.give_back(last, "the worker died") == "failed"
    assert store.claim() is None and "2 times" in store.get(last.id).error["message"]
    assert store.give_back(last, "the worker died") == ""


def test_the_queue_has_an_end(store):
    for owner in ("a", "b"):
        store.add(NewJob(owner, "g", {}), 3, 2)
    store.add(NewJob("a", "g", {}), 3, 2)
    with pytest.raises(Full, match="3 jobs are waiting"):
        store.add(NewJob("c", "g", {}), 3, 2)
    with pytest.raises(Full, match="this key has 2 jobs"):
        store.add(NewJob("a", "g", {}), 4, 2)
    store.claim()
    with pytest.raises(Full, match="this key"):  # one that runs counts for its key
        store.add(NewJob("a", "g", {}), 4, 2)


def test_idempotency_is_of_one_owner(store):
    new = NewJob("a", "g", {}, idempotency="k")
    job, is_new = store.add(new, 10, 10)
    assert is_new and store.add(replace(new, id="other"), 10, 10) == (job, False)
    assert store.add(replace(new, id="theirs", owner="b"), 10, 10)[1]


def test_owners_see_and_stop_their_own_jobs_alone(store):
    job = added(store)
    assert store.get(job, "a") and store.get(job, "b") is None and store.get(job)
    assert not store.cancel_waiting(job, "b") and store.cancel_waiting(job, "a") and not store.cancel_waiting(job, "a")
    assert not store.forget(job, "b") and store.forget(job, "a")
