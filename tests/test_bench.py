"""Speed is measured against loops that do the same work, and memory is known before it is used."""

import json

import pytest
import torch
from torch.nn.utils import vector_to_parameters

from lmc_ray.bench import plain
from lmc_ray.bench.measure import Speed, measure
from lmc_ray.bench.recommend import Choice, recommended, remember
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
    measured = measure(workload())
    assert measured is not None
    return measured


@pytest.mark.parametrize(("name", "shape"), [("mlp-16-8", (1, 8, 8)), ("resnet18-4", (3, 32, 32))])
def test_plain_loop_trains_the_same_network(name: str, shape: tuple[int, ...]):
    network = build(name, shape, 10)
    theta = network.initial(torch.Generator().manual_seed(1)).float()
    module = plain.module(network, drop=0.0)
    vector_to_parameters(theta, module.parameters())
    images = torch.rand(5, *shape)
    ours = network.logits(theta[None], images[None])[0]
    torch.testing.assert_close(module(images), ours, atol=1e-4, rtol=1e-4)


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
    assert joint is not None
    layers = build("mlp-64-64", (1, 8, 8), 10).multiply_adds
    forward = 2 * sum(layers)
    training, evaluation = 1437 * (3 * forward - 2 * layers[0]), 360 * forward
    flops = joint.cell_flops_per_second * joint.cell_seconds
    assert flops == pytest.approx(5 * (training + evaluation), rel=1e-6)


def test_worker_that_fails_does_not_stop_the_measurement_for_ever(capfd):
    assert measure(workload(values={"batch_size": 16, "memory_per_class": 10_000})) is None
    assert "memory" in capfd.readouterr().err


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
    asked = lmc("query", root, "SELECT replicas, plain_ratio > 0 FROM speeds ORDER BY 1")
    assert asked.out.count("true") == 2
