"""Speed is measured against loops that do the same work, and memory is known before it is used."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.utils import vector_to_parameters

from lmc_ray.bench import plain
from lmc_ray.bench.compare import compared
from lmc_ray.bench.measure import Speed, WorkerError, measure
from lmc_ray.bench.recommend import Choice, best, recommended, remember
from lmc_ray.bench.worker import Workload
from lmc_ray.errors import UserError
from lmc_ray.models import build
from lmc_ray.sweep.fit import check_fits


def workload(**changes) -> Workload:
    usual = {
        "benchmark": "rotated-digits",
        "method": "mcsgd",
        "network": "mlp-64-64",
        "values": {"batch_size": 16},
        "replicas": 2,
        "workers": 2,
        "data": None,
    }
    return Workload(**(usual | changes))


@pytest.fixture(scope="module")
def speed() -> Speed:
    return measure(workload())


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mlp-16-8", (1, 8, 8)), ("resnet18-4", (3, 32, 32)), ("stable-resnet-4", (3, 32, 32))],
)
def test_plain_loop_trains_the_same_network(name: str, shape: tuple[int, ...]):
    network = build(name, shape, 10)
    theta = network.initial(torch.Generator().manual_seed(1)).float()
    module = plain.module(network, drop=0.0)
    vector_to_parameters(theta, module.parameters())
    images = torch.rand(5, *shape)
    ours = network.logits(theta[None], images[None])[0]
    torch.testing.assert_close(module(images), ours, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batches", [plain.preloaded, plain.loaded])
def test_plain_loop_goes_on_where_an_epoch_is_short(batches: Callable):
    network = build("mlp-8", (1, 8, 8), 10)
    loop = batches(torch.rand(40, 1, 8, 8), torch.arange(40) % 10, 16)
    epochs = [sorted(torch.cat([next(loop)[1] for _ in range(3)]).tolist()) for _ in range(2)]
    assert epochs == [sorted(4 * [*range(10)])] * 2
    assert plain.steps_per_second(network, 0.0, loop, "cpu", seconds=0.01) > 0


def test_speed_agrees_with_itself(speed: Speed):
    assert sum(speed.phases.values()) == pytest.approx(1, abs=0.02)
    assert min(speed.phases["connection"], speed.phases["evaluation"]) > 0
    assert speed.flops_per_second < 1.05 * speed.peak_flops
    assert speed.cells_per_hour == pytest.approx(3600 * 2 / speed.cell_seconds, rel=0.3)
    assert min(speed.plain_ratio, speed.loader_ratio) > 0


def test_memory_is_predicted(speed: Speed):
    assert speed.private_bytes is not None
    assert abs(speed.predicted_bytes / speed.private_bytes - 1) < 0.2


def test_a_cell_of_joint_training_is_measured_once_at_its_end():
    joint = measure(workload(method="multitask", replicas=1, workers=1))
    layers = build("mlp-64-64", (1, 8, 8), 10).multiply_adds
    forward = 2 * sum(layers)
    training, evaluation = 1437 * (3 * forward - 2 * layers[0]), 360 * forward
    flops = joint.cell_flops_per_second * joint.cell_seconds
    assert flops == pytest.approx(5 * (training + evaluation), rel=1e-6)


def test_worker_that_fails_does_not_stop_the_measurement_for_ever():
    with pytest.raises(WorkerError, match="memory"):
        measure(workload(values={"batch_size": 16, "memory_per_class": 10_000}))
    assert not multiprocessing.active_children()


def test_worker_that_is_killed_does_not_stop_the_measurement_for_ever():
    """The other one waits for it at the barrier."""

    def kill() -> None:
        while not (workers := multiprocessing.active_children()):
            time.sleep(0.01)
        os.kill(workers[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(WorkerError, match=r"killed, perhaps for want of memory \(exit code -9\)"):
        measure(workload())
    killer.join()
    assert not multiprocessing.active_children()


def test_what_a_worker_failed_of_is_one_line(capfd):
    told: list[str] = []
    with pytest.raises(UserError, match="nothing could be measured"):
        compared([workload(network="mlp-99999999999999999998", workers=1)], told.append)
    assert capfd.readouterr() == ("", "")
    _, failed = told
    assert failed.startswith("mcsgd, batch 16: a worker failed: TypeError: ")
    assert "\n" not in failed


def test_best_is_fair_to_all_methods(speed: Speed):
    def of(method: str, replicas: int, cells: float) -> Speed:
        asked = replace(speed.workload, method=method, replicas=replicas)
        return replace(speed, workload=asked, cells_per_hour=cells)

    # A cell of each: 1/1000 + 1/10 of an hour, and 1/4000 + 1/5.
    speeds = [of("quick", 1, 1000), of("quick", 4, 4000), of("slow", 1, 10), of("slow", 4, 5)]
    for some, replicas in [(speeds, 1), (speeds[:2], 4), (speeds[:3], 1)]:
        chosen = best(some)
        assert chosen is not None
        assert chosen.workload.replicas == replicas
    assert best(speeds[1:3]) is None


def test_what_was_best_is_followed(speed: Speed, monkeypatch, tmp_path):
    monkeypatch.setenv("LMC_CACHE", str(tmp_path))
    assert recommended("mlp-64-64", 16) is None
    remember(speed)
    assert recommended("mlp-64-64", 64) == Choice(replicas=2, workers=2)
    assert recommended("mlp-256-256", 64) is None
    (tmp_path / "speeds.json").write_text("{")
    assert recommended("mlp-64-64", 64) is None


def test_noting_a_speed_keeps_the_others(speed: Speed, monkeypatch, tmp_path):
    monkeypatch.setenv("LMC_CACHE", str(tmp_path))
    (tmp_path / "speeds.json").write_text('{"H100": {"mlp-64-64": {"10": [64, 1]}}}')
    noted = json.loads(remember(speed).read_text())
    assert noted["H100"] == {"mlp-64-64": {"10": [64, 1]}}
    assert len(noted) == 2


def test_too_large_a_run_is_refused_with_its_numbers():
    network = build("mlp-256-256", (1, 28, 28), 10)
    check_fits(network, batch_size=64, replicas=2, workers=2, memory=4 * 10**9)
    with pytest.raises(UserError, match=r"4 workers .* 8 replicas .* GB .* --max-concurrent"):
        check_fits(network, batch_size=64, replicas=8, workers=4, memory=10**9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "sgd"), "unknown method 'sgd'"),
        (("--network", "mlp"), "unknown network"),
        (("--benchmark", "rotated-digit"), "rotated-digits"),
    ],
)
def test_bench_refuses(lmc, arguments: tuple[str, ...], message: str):
    done = lmc("bench", *arguments)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert message in done.err


def test_bench_writes_a_table(lmc, tmp_path, monkeypatch):
    monkeypatch.setenv("LMC_CACHE", str(tmp_path / "cache"))
    root = str(tmp_path / "results")
    how = ("--batch-size", "16", "--workers", "1", "--results", root)
    done = lmc("bench", "--method", "naive-sgd", "--replicas", "1", "--replicas", "2", *how)
    assert done.status == 0, done.err
    assert "best at batch 16: 1 workers with stacks of" in done.out
    assert "not noted for sweeps: leave --workers out" in done.out
    assert not (tmp_path / "cache" / "speeds.json").exists(), "a wish is no finding"
    asked = lmc("query", root, "SELECT replicas, plain_ratio > 0 FROM speeds ORDER BY 1")
    assert asked.out.count("true") == 2


@pytest.fixture
def measured(speed: Speed, monkeypatch, tmp_path: Path) -> list[Workload]:
    """What `lmc-ray bench` measures; here it takes no time."""
    monkeypatch.setenv("LMC_CACHE", str(tmp_path / "cache"))
    asked: list[Workload] = []

    def at_once(wanted: Workload) -> Speed:
        asked.append(wanted)
        return replace(speed, workload=wanted)

    monkeypatch.setattr("lmc_ray.bench.compare.measure", at_once)
    return asked


def test_bench_measures_once_what_is_asked_twice(lmc, measured: list[Workload], tmp_path: Path):
    how = ["--method", "naive-sgd", "--batch-size", "16", "--replicas", "2"] * 2
    done = lmc("bench", *how, "--results", str(tmp_path / "results"))
    assert done.status == 0, done.err
    assert [(each.method, each.batch_size, each.replicas) for each in measured] == [
        ("naive-sgd", 16, 2)
    ]
    assert "best at" not in done.out
    measured.clear()
    assert lmc("bench", "--replicas", "2", "--replicas", "1", "--replicas", "2").status == 0
    assert [each.replicas for each in measured] == [2, 1]


def test_bench_keeps_its_rows_where_the_cache_cannot_be_written(
    lmc, measured: list[Workload], tmp_path: Path
):
    (tmp_path / "cache" / "speeds.new").mkdir(parents=True)  # where the note would be written
    root = str(tmp_path / "results")
    done = lmc("bench", "--replicas", "1", "--replicas", "2", "--results", root)
    assert done.status == 0, done.err
    (line,) = [line for line in done.out.splitlines() if line.startswith("best at batch 64: ")]
    assert "(not noted for sweeps: [Errno 21] Is a directory: " in line
    assert "2" in lmc("query", root, "SELECT count(*) FROM speeds", "--format", "csv").out
