"""The open loop, in a time that is only counted: an event loop whose waiting costs nothing."""

from __future__ import annotations

import asyncio
import csv
import json
import math
import selectors
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from client import AsyncInceptionClient, DeadlineExceeded, Overloaded, QueueFull
from client.retries import NO_RETRIES
from client.testing import AsyncFakeServer, FakeModel, FakeServer
from loadtest import arrivals_command
from loadtest.arrivals import ABANDONED, GRACE_S, OK, Pace, Sample, run_schedule
from loadtest.arrivals_figures import figures_of
from loadtest.arrivals_target import Target, chosen_model, resized
from loadtest.cli import main
from loadtest.errors import MeasurementFailed, UsageError
from loadtest.schedule import CONSTANT, arrival_times_ns
from loadtest.workload import EXAMPLE_PHOTOGRAPHS, photographs_in

TICK_NS = 10_000  # what one turn of the loop takes


class CountedSelector(selectors.SelectSelector):
    """Nothing is ever ready; waiting moves the clock instead."""

    now_ns = 0

    def select(self, timeout=None):
        assert timeout is not None, "the loop would wait for ever"
        self.now_ns += max(TICK_NS, round(timeout * 1e9))
        return []


class CountedLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.counted = CountedSelector()
        super().__init__(self.counted)

    def time(self):
        return self.counted.now_ns / 1e9


def counted(make):
    """The answer of the coroutine `make(clock_ns)` in counted time."""
    with asyncio.Runner(loop_factory=CountedLoop) as runner:
        counter = runner.get_loop().counted
        return runner.run(make(lambda: counter.now_ns))


def run_counted(schedule, send, **options):
    options = {"timeout_s": 30.0} | options
    return counted(lambda clock_ns: run_schedule(schedule, send, pace=Pace(clock_ns=clock_ns), **options))


def one_at_a_time(service_s):
    """A server that takes `service_s` for each request, one after the other."""
    lock = asyncio.Lock()

    async def send(_number):
        async with lock:
            await asyncio.sleep(service_s)

    return send


def test_requests_are_sent_when_due_and_not_when_the_last_was_answered():
    """Ten are due within a second, each takes three: all are under way together."""
    run = run_counted(arrival_times_ns(CONSTANT, 10, 1, "0"), lambda _number: asyncio.sleep(3))
    assert len(run.samples) == run.planned == run.peak_outstanding == 10
    assert all(sample.outcome == OK for sample in run.samples)
    assert [round(sample.dispatched_ns / 1e8) for sample in run.samples] == list(range(10))
    assert all(sample.delay_ms < 0.1 for sample in run.samples)
    assert all(sample.latency_ms == pytest.approx(3000, abs=1) for sample in run.samples)


def test_within_capacity_the_latency_is_the_service_time():
    """20 a second at 20 ms each."""
    run = run_counted(arrival_times_ns(CONSTANT, 20, 40, "0"), one_at_a_time(0.02))
    figures = figures_of(run, 40, slo_ms=25)
    assert figures.invalid == ()
    assert [told.value for told in figures.latency_ms[:4]] == [pytest.approx(20, abs=0.5)] * 4
    assert figures.answered_per_s == figures.goodput_per_s == pytest.approx(20, rel=0.01)
    assert [part.requests for part in figures.over_time] == [80] * 10


def test_at_twice_the_capacity_latency_grows_as_the_schedule_goes_on():
    """One service time less one gap with each request: the last of 400 waits for the 4 s that the server is behind."""
    run = run_counted(arrival_times_ns(CONSTANT, 100, 4, "0"), one_at_a_time(0.02))
    latencies = [sample.latency_ms for sample in run.samples]
    assert latencies == [pytest.approx(20 + 10 * number, rel=0.02) for number in range(400)]
    figures = figures_of(run, 4)
    assert figures.answered_per_s == pytest.approx(50, rel=0.02)
    assert figures.latency_ms[0].value > 10 * 20
    assert figures.invalid == ()


def test_a_stall_of_the_server_is_felt_by_all_that_were_due_meanwhile():
    """No coordinated omission: 1 s at 100 a second is 100 slow samples, not one."""
    lock = asyncio.Lock()

    async def send(number):
        async with lock:
            await asyncio.sleep(1.0 if number == 200 else 0.001)

    figures = figures_of(run := run_counted(arrival_times_ns(CONSTANT, 100, 10, "0"), send), 10)
    assert sum(sample.latency_ms > 100 for sample in run.samples) == pytest.approx(100, abs=5)
    assert figures.latency_ms[3].value > 800  # p99; a closed loop would have said 1 ms


def test_a_late_generator_is_marked_invalid():
    """Its lateness is in every latency, and no server's."""

    class LatePace(Pace):
        async def until(self, due_ns):
            await super().until(due_ns + 15_000_000)

    def make(clock_ns):
        schedule = arrival_times_ns(CONSTANT, 50, 20, "0")
        return run_schedule(schedule, lambda _: asyncio.sleep(0.02), timeout_s=30, pace=LatePace(clock_ns=clock_ns))

    figures = figures_of(counted(make), 20)
    assert figures.dispatch_delay_ms[3].value == pytest.approx(15, abs=0.5)
    (reason,) = figures.invalid
    assert "the generator was late: p99 of its delay is 15" in reason
    assert "lower --rate" in reason


def test_with_few_samples_a_lower_percentile_judges_the_generator_and_with_fewer_nothing_does():
    """20 samples tell a median only; 10 not even that, and what cannot be judged is not believed."""
    schedule = arrival_times_ns(CONSTANT, 10, 2, "0")
    assert figures_of(run_counted(schedule, lambda _: asyncio.sleep(0.02)), 2).invalid == ()
    (reason,) = figures_of(run_counted(schedule[:10], lambda _: asyncio.sleep(0.02)), 1).invalid
    assert "10 answers are too few" in reason


def test_errors_are_outcomes_by_name_and_slower_than_any_answer():
    """A server that sheds load does not look fast for it."""

    async def send(number):
        await asyncio.sleep(0.01)
        if number % 10 == 0:
            raise QueueFull("full")
        if number % 10 == 1:
            raise Overloaded("waited")
        if number % 100 == 2:
            raise DeadlineExceeded("late")

    run = run_counted(arrival_times_ns(CONSTANT, 100, 10, "0"), send)
    figures = figures_of(run, 10, slo_ms=50)
    assert figures.outcomes == {OK: 790, "QueueFull": 100, "Overloaded": 100, "DeadlineExceeded": 10}
    assert figures.failure_share == pytest.approx(0.21)
    assert figures.answered_per_s == figures.goodput_per_s == pytest.approx(79, rel=0.01)
    assert figures.latency_ms[0].value == pytest.approx(10, abs=0.5)
    assert figures.latency_ms[1].value == math.inf  # p90: 21 % got no answer
    assert figures.invalid == ()


def test_too_many_under_way_end_the_run_as_invalid():
    """A server that answers nothing does not fill this machine's memory."""
    run = run_counted(arrival_times_ns(CONSTANT, 100, 10, "0"), lambda _: asyncio.sleep(5), max_outstanding=50)
    assert len(run.samples) == run.peak_outstanding == 50
    (reason,) = figures_of(run, 10).invalid
    assert "50 requests were under way" in reason


def test_a_run_ends_though_a_request_does_not():
    """Within the schedule, the time-out and a grace; what was not answered is told."""
    run = run_counted(
        arrival_times_ns(CONSTANT, 10, 2, "0"), lambda n: asyncio.sleep(3600 if n == 3 else 0.01), timeout_s=5
    )
    assert run.elapsed_s < 2 + 5 + 2 * GRACE_S
    assert [sample.outcome for sample in run.samples].count(ABANDONED) == 1
    assert run.samples[3].outcome == ABANDONED


def test_a_generator_that_blocks_ends_in_time_and_says_what_it_did_not_send():
    """Each request blocks the loop for 100 ms; 100 a second are asked for."""

    async def send(_number):
        asyncio.get_running_loop().counted.now_ns += 100_000_000

    schedule = arrival_times_ns(CONSTANT, 100, 5, "0")
    stopped, late = figures_of(run_counted(schedule, send, timeout_s=5), 5).invalid
    assert "requests were never sent" in stopped
    assert "the generator was late" in late


def test_a_run_that_is_cancelled_hands_over_what_it_has():
    """Ctrl-C loses no sample."""

    async def make(clock_ns):
        schedule = arrival_times_ns(CONSTANT, 10, 10, "0")
        running = run_schedule(schedule, lambda _: asyncio.sleep(0.01), timeout_s=5, pace=Pace(clock_ns=clock_ns))
        task = asyncio.get_running_loop().create_task(running)
        await asyncio.sleep(2)
        task.cancel()
        return await task

    run = counted(make)
    assert 15 <= len(run.samples) <= 21
    assert run.stopped == "it was interrupted"


def test_a_fault_of_the_harness_is_no_outcome():
    """Only what the client raises on purpose says something of the server."""

    async def send(_number):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        run_counted(arrival_times_ns(CONSTANT, 10, 1, "0"), send)


def test_a_decided_run_ends_at_once():
    """Nothing more is sent, and nothing waited for."""
    run = run_counted(
        arrival_times_ns(CONSTANT, 10, 100, "0"), lambda _: asyncio.sleep(3), is_decided=lambda sample: sample[0] >= 1e9
    )
    assert run.elapsed_s < 5
    assert figures_of(run, 100).invalid == ()


async def asked(server, *arguments, calls):
    async with AsyncInceptionClient.over(AsyncFakeServer(server), retries=NO_RETRIES) as client:
        target = Target(client, chosen_model(await client.models(), None), *arguments)
        return await calls(target)


def test_the_target_asks_for_its_pictures_in_turn():
    """Decoded and resized beforehand, the pixels are those of the model's own preprocessing."""
    model = FakeModel("GoogLeNet", input_size=224, resize_short=256)
    photographs = photographs_in(EXAMPLE_PHOTOGRAPHS)

    async def sent():
        async with AsyncInceptionClient.over(AsyncFakeServer(FakeServer(model))) as client:
            contract = chosen_model(await client.models(), None)
            pictures = [resized(photograph, contract) for photograph in photographs]
            target = Target(client, contract, pictures)
            for number in range(4):
                await target.send(number)
        return pictures

    pictures = asyncio.run(sent())
    assert {picture.shape for picture in pictures} == {(256, 256, 3)}
    for image, picture in zip(model.images, [*pictures, pictures[0]], strict=True):
        assert (image == picture[16:240, 16:240]).all()


def test_a_batch_is_one_request_and_its_error_the_requests():
    server = FakeServer(FakeModel("GoogLeNet", input_size=224, resize_short=256))

    async def calls(target):
        await target.send(0)
        server.fail_next(QueueFull("full"))
        with pytest.raises(QueueFull):
            await target.send(1)

    asyncio.run(asked(server, [resized_photograph()], 8, calls=calls))
    assert len(server.models["googlenet_fp32"].images) == 8


def resized_photograph():
    return np.zeros((256, 256, 3), np.uint8)


def test_the_warm_up_waits_for_a_server_that_is_still_busy_and_not_for_ever(monkeypatch):
    server = FakeServer(FakeModel("GoogLeNet"))

    async def calls(target):
        server.fail_next(Overloaded("busy"), DeadlineExceeded("busy"))
        await target.warm_up(4)
        monkeypatch.setattr("loadtest.arrivals_target.SETTLE_S", 0.0)
        server.fail_next(Overloaded("busy"))
        with pytest.raises(MeasurementFailed, match="answered nothing"):
            await target.warm_up(4)

    asyncio.run(asked(server, [resized_photograph()], calls=calls))
    assert len(server.models["googlenet_fp32"].images) == 5


def test_of_several_models_one_must_be_named():
    async def served():
        async with AsyncInceptionClient.over(
            AsyncFakeServer(FakeServer(FakeModel("GoogLeNet"), FakeModel("InceptionV3")))
        ) as client:
            return await client.models()

    models = asyncio.run(served())
    assert chosen_model(models, "InceptionV3").served_name == "inception_v3_fp32"
    with pytest.raises(UsageError, match=r"googlenet_fp32, inception_v3_fp32.*--model"):
        chosen_model(models, None)


@pytest.fixture
def fake(monkeypatch):
    """The command's server is a fake; returns it."""
    server = FakeServer(FakeModel("GoogLeNet", input_size=224, resize_short=256))

    @asynccontextmanager
    async def opened(options):
        async with AsyncInceptionClient.over(AsyncFakeServer(server), retries=NO_RETRIES) as client:
            yield Target(client, chosen_model(await client.models(), options.model), [resized_photograph()])

    monkeypatch.setattr(arrivals_command, "opened", opened)
    return server


def test_the_command_writes_every_sample_and_the_conditions(fake, tmp_path, capsys):
    """JSON and CSV have the same samples; the token is in neither."""
    files = tmp_path / "run.json", tmp_path / "run.csv"
    code = main([
        "arrivals", "--rate", "200", "--duration", "0.5", "--constant", "--url", "localhost:1", "--token", "secret",
        "--slo-ms", "1000", "--json", str(files[0]), "--csv", str(files[1]),
    ])  # fmt: skip
    assert code in (0, 4)  # 4 where this machine was busy: a fake answers within a millisecond
    told = json.loads(files[0].read_text())
    assert told["figures"]["outcomes"] == {OK: 100}
    assert (told["seed"], told["options"]["rate"], told["served"]["release"]) == ("0", 200, "fake")
    assert told["valid"] == (code == 0)
    assert told["machine"]["cores"] >= 1
    with files[1].open() as file:
        rows = list(csv.DictReader(file))
    samples = [Sample(*sample) for sample in told["samples"]]
    assert [int(row["scheduled_ns"]) for row in rows] == [sample.scheduled_ns for sample in samples]
    assert [sample.scheduled_ns for sample in samples] == list(arrival_times_ns(CONSTANT, 200, 0.5, "0"))
    assert all(0 <= sample.scheduled_ns <= sample.dispatched_ns <= sample.ended_ns for sample in samples)
    output = capsys.readouterr().out
    assert "needs 662" in output
    assert "secret" not in output + files[0].read_text()


def test_no_answer_at_all_is_a_failure_and_still_told(fake, tmp_path, capsys):
    """Exit code 1, with the outcomes by name."""
    path = tmp_path / "run.json"

    class Failing(Target):
        async def send(self, number):
            raise QueueFull("full")

        async def warm_up(self, requests=0):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.Target", Failing)
        code = main(["arrivals", "--rate", "100", "--duration", "0.2", "--url", "localhost:1", "--json", str(path)])
    assert code == 1
    assert "none of" in capsys.readouterr().err
    told = json.loads(path.read_text())
    assert set(told["figures"]["outcomes"]) == {"QueueFull"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rate", "0", "--duration", "1"], "--rate 0"),
        (["--rate", "1e9", "--duration", "1"], "a lower --rate"),
        (["--rate", "0.001", "--duration", "1"], "nothing is due"),
        (["--rate", "1", "--duration", "20", "--url", "10.0.0.1:8001"], "--allow-remote"),
        (["--rate", "1", "--duration", "20", "--url", "http://example.com"], "--allow-remote"),
        (["--rate", "1", "--duration", "20", "--batch-size", "0"], "--batch-size 0"),
        (["--rate", "1", "--duration", "20", "--max-outstanding", "0"], "--max-outstanding 0"),
        (["--rate", "1", "--duration", "20", "--slo-ms", "0"], "--slo-ms 0"),
        (["--rate", "1", "--duration", "20", "--json", "nowhere/a.json"], "cannot be written"),
        (["--rate", "1", "--duration", "20", "--photographs", "nowhere"], "cannot be read"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, told, tmp_path, monkeypatch, capsys):
    """Told before anything is sent."""
    monkeypatch.chdir(tmp_path)
    assert main(["arrivals", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1
    assert not list(Path().iterdir())
