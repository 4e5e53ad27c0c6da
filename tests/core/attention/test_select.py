"""What is measured, what is kept, and a memory on disk that can be trusted with nothing. No duration is asserted: time is pretended."""

from __future__ import annotations

import json
import time

import pytest
import torch
from rapiddraw.core.attention import memory, select
from rapiddraw.core.attention.call import Call
from rapiddraw.core.attention.memory import Memory, machine_name, read
from rapiddraw.core.attention.select import DEFAULT, Selector, bucket, fastest, measure

CPU = torch.device("cpu")
CALL = Call(CPU, torch.float32, 2, 8, 64, 64, 40, False)
SAME = torch.ones(2, 3)


class Clock:
    """A clock that only moves when a rival says so."""

    def __init__(self, monkeypatch):
        self.now, self.runs = 0.0, []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def rival(self, name, seconds, out=SAME, error=None):
        def run():
            self.runs.append(name)
            self.now += seconds[min(self.runs.count(name), len(seconds)) - 1] if isinstance(seconds, list) else seconds
            if error is not None:
                raise error
            return out

        return run


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_the_fastest_wins_and_a_first_run_does_not_count(clock):
    rivals = {DEFAULT: clock.rival(DEFAULT, 0.01), "cold": clock.rival("cold", [0.04, 0.002]), "slow": clock.rival("slow", 0.012)}
    times, out, lasting = measure(rivals, CPU)
    assert times == {DEFAULT: pytest.approx(0.01), "cold": pytest.approx(0.002), "slow": pytest.approx(0.012)}
    assert fastest(times, rivals) == "cold" and out is SAME and lasting == "disk"


def test_the_default_stays_unless_another_is_clearly_faster():
    assert fastest({DEFAULT: 1.0, "a": 0.98}, [DEFAULT, "a"]) == DEFAULT
    assert fastest({DEFAULT: 1.0, "a": 0.96}, [DEFAULT, "a"]) == "a"
    assert fastest({DEFAULT: 1.0, "a": 0.1, "b": None}, [DEFAULT, "b"]) == DEFAULT
    assert fastest({DEFAULT: 1.0, "a": 5.0}, ["a"]) == "a"  # asked for by name
    assert fastest({}, [DEFAULT, "a"]) == DEFAULT


def test_what_is_hopeless_is_run_once(clock):
    rivals = {DEFAULT: clock.rival(DEFAULT, 0.1), "slow": clock.rival("slow", 0.9), "fast": clock.rival("fast", 0.08)}
    measure(rivals, CPU)
    assert clock.runs.count("slow") == 1 and clock.runs.count("fast") > 1


def test_short_calls_are_run_more_often(clock):
    measure({DEFAULT: clock.rival(DEFAULT, 1e-4), "close": clock.rival("close", 0.9e-4)}, CPU)
    short = clock.runs.count("close")
    clock.runs.clear()
    measure({DEFAULT: clock.rival(DEFAULT, 0.04), "close": clock.rival("close", 0.036)}, CPU)
    assert short > clock.runs.count("close") > 2


def test_long_calls_are_run_twice_at_most(clock):
    measure({DEFAULT: clock.rival(DEFAULT, 2.0), "fast": clock.rival("fast", 1.0)}, CPU)
    assert clock.runs == [DEFAULT, "fast", DEFAULT, "fast"]


@pytest.mark.parametrize("wrong", [SAME * 1.1, SAME * torch.nan, torch.ones(3, 2), SAME.double()])
def test_a_wrong_result_is_never_chosen(clock, wrong):
    times, _, _ = measure({DEFAULT: clock.rival(DEFAULT, 0.01), "wrong": clock.rival("wrong", 0.001, wrong)}, CPU)
    assert times["wrong"] is None and fastest(times, times) == DEFAULT


def test_an_inexact_kernel_is_held_to_being_finite_only(clock):
    rivals = {DEFAULT: clock.rival(DEFAULT, 0.01), "rough": clock.rival("rough", 0.001, SAME * 1.1)}
    assert fastest(measure(rivals, CPU, ["rough"])[0], rivals) == "rough"
    rivals["rough"] = clock.rival("rough", 0.001, SAME * torch.nan)
    assert fastest(measure(rivals, CPU, ["rough"])[0], rivals) == DEFAULT


def test_one_that_raises_is_left_out(clock, tmp_path):
    rivals = {DEFAULT: clock.rival(DEFAULT, 0.01), "broken": clock.rival("broken", 0.001, error=RuntimeError("no kernel image"))}
    selector = Selector(Memory(tmp_path / "a.json"))
    assert selector.times(CALL, "d", rivals)[0]["broken"] is None
    assert read(tmp_path / "a.json")[machine_name(CPU)][f"{bucket(CALL)} d"]["broken"] is None  # not tried again after a restart


def test_no_memory_left_is_not_remembered_on_disk(clock, tmp_path):
    rivals = {DEFAULT: clock.rival(DEFAULT, 0.01), "large": clock.rival("large", 0.001, error=torch.OutOfMemoryError("full"))}
    selector = Selector(Memory(tmp_path / "a.json"))
    for _ in range(2):
        assert selector.times(CALL, "d", rivals)[0]["large"] is None
    assert clock.runs.count("large") == 1 and not (tmp_path / "a.json").exists()


def test_a_default_that_is_not_finite_decides_nothing(clock, tmp_path):
    rivals = {DEFAULT: clock.rival(DEFAULT, 0.01, SAME * torch.inf), "fast": clock.rival("fast", 0.001)}
    selector = Selector(Memory(tmp_path / "a.json"))
    times, out = selector.times(CALL, "d", rivals)
    assert fastest(times, rivals) == DEFAULT and out is not None and not (tmp_path / "a.json").exists()
    rivals[DEFAULT] = clock.rival(DEFAULT, 0.01)
    assert fastest(selector.times(CALL, "d", rivals)[0], rivals) == "fast"


def test_a_call_is_measured_once_and_remembered_over_a_restart(clock, tmp_path):
    rivals = {DEFAULT: clock.rival(DEFAULT, 0.01), "fast": clock.rival("fast", 0.001)}
    made = []
    for _ in range(2):  # a process, then the next one
        selector = Selector(Memory(tmp_path / "a.json"))
        for _ in range(3):
            times, _ = selector.times(CALL, "d", rivals)
            assert fastest(times, rivals) == "fast"
            made.append(len(clock.runs))
    assert made[0] > 2 and set(made) == {made[0]}
    selector.times(CALL, "another default", rivals)
    assert len(clock.runs) == 2 * made[0]  # another default is another question
    rivals["new"] = clock.rival("new", 0.0001)
    assert fastest(selector.times(CALL, "d", rivals)[0], rivals) == "new"  # and so is a kernel installed since


def test_sizes_share_a_bucket_up_to_a_power_of_two():
    def at(queries=64, keys=64, **changes):
        return bucket(Call(**{**vars(CALL), "queries": queries, "keys": keys, **changes}))

    assert at(33) == at(64) != at(65)
    assert at(keys=77) == at(keys=128) != at(keys=129)
    assert len({at(), at(head_dim=64), at(dtype=torch.bfloat16), at(masked=True), at(heads=64)}) == 5


HOSTILE = [
    b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 1}', b'{"format": 99, "machines": {}}', b'{"format": 1, "machines": []}',
    b"[" * 100_000, b'{"format": 1, "machines": {"M": 7}}', b'{"format": 1, "machines": {"M": {"C": [1]}}}',
    b'{"format": 1, "machines": {"M": {"C": {"default": -1.0}}}}', b'{"format": 1, "machines": {"M": {"C": {"default": NaN}}}}',
    b'{"format": 1, "machines": {"M": {"C": {"default": "0.1"}}}}', b'{"format": 1, "machines": {"M": {"C": {"default": true}}}}',
    b" " * (memory.MAX_BYTES + 1),
]  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_a_damaged_or_foreign_file_is_ignored_and_written_anew(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    store = Memory(path)
    assert store.get("M", "C") == {}
    store.put("M", "C", {DEFAULT: 0.5, "x": None})
    assert Memory(path).get("M", "C") == {DEFAULT: 0.5, "x": None}
    assert json.loads(path.read_text(encoding="utf-8"))["format"] == memory.FORMAT


def test_a_file_cannot_name_what_is_not_asked_for(clock, tmp_path):
    store = Memory(tmp_path / "a.json")
    store.put(machine_name(CPU), f"{bucket(CALL)} d", {DEFAULT: 1.0, "fast": 0.5, "sage": 1e-9, "../../evil": 1e-9})
    rivals = {DEFAULT: clock.rival(DEFAULT, 1.0), "fast": clock.rival("fast", 0.5)}
    times, _ = Selector(store).times(CALL, "d", rivals)
    assert fastest(times, rivals) == "fast" and clock.runs == []


def test_two_processes_keep_each_others_measurements(tmp_path):
    one, two = Memory(tmp_path / "a.json"), Memory(tmp_path / "a.json")
    one.get("M", "A"), two.get("M", "A")
    one.put("M", "A", {DEFAULT: 1.0})
    two.put("M", "B", {DEFAULT: 2.0})
    assert read(tmp_path / "a.json") == {"M": {"A": {DEFAULT: 1.0}, "B": {DEFAULT: 2.0}}}


def test_the_file_does_not_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MAX_ENTRIES", 3)
    store = Memory(tmp_path / "a.json")
    for name in "ABCDE":
        store.put("M", name, {DEFAULT: 1.0})
    assert list(read(tmp_path / "a.json")["M"]) == ["C", "D", "E"]


def test_a_place_that_cannot_be_written_is_no_failure(tmp_path):
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    store = Memory(tmp_path / "file" / "a.json")
    store.put("M", "C", {DEFAULT: 1.0})
    assert store.get("M", "C") == {DEFAULT: 1.0}


def test_a_measurement_belongs_to_one_machine():
    assert torch.__version__ in machine_name(CPU) and f"{torch.get_num_threads()} threads" in machine_name(CPU)
    assert select.DEFAULT not in machine_name(CPU)
