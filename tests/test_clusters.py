"""The files in cluster/: what their commands do on a node, and that they agree with each other."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray import tune
from simulation import PLACE, protocol, study

from lmc_ray.bench.recommend import Choice
from lmc_ray.errors import UserError
from lmc_ray.sweep.cells import Pack
from lmc_ray.sweep.cluster import Resources, connect
from lmc_ray.sweep.packs import Packing
from lmc_ray.sweep.place import machine_for
from lmc_ray.sweep.runner import Machine, resources_of
from lmc_ray.sweep.study import StudyRun
from lmc_ray.sweep.trainable import StackTrainable, Workplace

PROJECT = Path(__file__).parent.parent
CLUSTER = PROJECT / "cluster"
GPU = yaml.safe_load((CLUSTER / "gpu.yaml").read_text())
ONPREM = yaml.safe_load((CLUSTER / "onprem.yaml").read_text())
SCRIPTS = sorted(path.name for path in (PROJECT / "sweeps").glob("*.py"))


def manifests(name: str) -> dict[str, Any]:
    """The objects of a file, by kind and name."""
    documents = yaml.safe_load_all((CLUSTER / "kuberay" / name).read_text())
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in documents}


RAYCLUSTER = manifests("raycluster.yaml")
RAYJOB = manifests("rayjob.yaml")["RayJob/lmc-mcsgd"]
NIGHTLY = manifests("nightly-cronjob.yaml")
CARRIED = NIGHTLY["ConfigMap/lmc-nightly"]["data"]["rayjob.yaml"]


def shell(command: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command as the launcher runs it on a node."""
    return subprocess.run(
        ["bash", "--login", "-c", "-i", f"source ~/.bashrc; ({command})"],
        env={"HOME": str(home), "PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # an interactive shell would take the terminal
    )


# On a node


@pytest.mark.parametrize("config", [GPU, ONPREM], ids=["gpu", "onprem"])
def test_every_shell_of_a_node_knows_what_it_needs(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / ".bashrc").write_text("export OWN=1\n")
    for _ in range(2):  # `ray up` again
        assert shell(config["setup_commands"][0], tmp_path).returncode == 0
    assert len((tmp_path / ".bashrc").read_text().splitlines()) == 2
    said = dict(line.split("=", 1) for line in shell("env", tmp_path).stdout.splitlines())
    assert said["LMC_BENCHMARK"] == "rotated-mnist"
    assert said["RAY_AUTH_MODE"] == "token"
    assert said["PATH"].startswith(f"{tmp_path}/lmc-env/bin:")
    if config is GPU:
        assert said["LMC_RESULTS"] == "s3://my-bucket/lmc"
        assert said["LMC_DATA"] == f"{tmp_path}/lmc-data"
        assert (said["LMC_MAX_CPUS"], said["LMC_MAX_GPUS"]) == ("32", "8")


def test_the_environment_is_made_once_a_lock(tmp_path: Path) -> None:
    [command] = [each for each in GPU["setup_commands"] if "--require-hashes" in each]
    (tmp_path / "lmc-ray").mkdir()
    (tmp_path / ".bashrc").touch()
    lock = tmp_path / "lmc-ray" / "requirements.lock"
    lock.write_text("")  # pip has nothing to fetch
    mark = tmp_path / "lmc-env" / ".lock"
    assert shell(command, tmp_path).returncode == 0
    made = mark.stat().st_mtime_ns
    assert shell(command, tmp_path).returncode == 0
    assert mark.stat().st_mtime_ns == made, "it was made again"
    lock.write_text("no-such-package-of-ours==1 --hash=sha256:00\n")
    assert shell(command, tmp_path, PIP_NO_INDEX="1").returncode != 0
    assert not mark.exists(), "a failed installation counts as made"


def test_both_launcher_files_install_in_the_same_way() -> None:
    installs = [
        [each for each in config["setup_commands"] if "pip install" in each]
        for config in (GPU, ONPREM)
    ]
    assert installs[0] == installs[1]
    assert len(installs[0]) == 2
    assert GPU["file_mounts"] == ONPREM["file_mounts"]


def test_only_spot_workers_train_on_aws() -> None:
    types = GPU["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["gpu"]["min_workers"] == 0
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


# The script that `ray submit` brings


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_node_without_the_package(script: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-I", "-S", PROJECT / "sweeps" / script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert re.fullmatch(r"No module named 'lmc_ray': install lmc-ray here .*\n", ended.stderr)


@pytest.mark.parametrize(
    ("resources", "network", "share", "concurrent"),
    [
        (Resources(32, 8, 1), "mlp-256-256", 0.25, 32),
        (Resources(32, 8, 1), "resnet18-20", 1.0, 8),
        (Resources(2, 8, 1), "mlp-256-256", 0.25, 2),
        (Resources(2, 0, 1), "mlp-256-256", 0.0, 2),
        (Resources(0, 0, 1), "resnet18-20", 0.0, 1),
    ],
)
def test_the_default_share(
    resources: Resources, network: str, share: float, concurrent: int
) -> None:
    machine = machine_for(resources, network, None, None, None)
    assert (machine.gpus_per_trial, machine.max_concurrent) == (share, concurrent)


@pytest.mark.parametrize(
    ("resources", "network", "replicas", "packing"),
    [
        (Resources(8, 0, 1), "mlp-256-256", None, Packing(2, 8)),
        (Resources(8, 0, 1), "mlp-256-256", 6, Packing(6, 8)),
        (Resources(16, 1, 1), "mlp-256-256", None, Packing(32, 1)),
        (Resources(16, 1, 1), "mlp-256-256", 64, Packing(64, 1)),
        (Resources(32, 4, 1), "resnet18-20", 64, Packing(64, 4)),
        (Resources(2, 4, 1), "mlp-256-256", None, Packing(32, 2)),
    ],
)
def test_cores_share_blocks_out_and_a_gpu_takes_what_fits(
    resources: Resources, network: str, replicas: int | None, packing: Packing
) -> None:
    assert machine_for(resources, network, None, None, replicas).packing == packing


def test_what_bench_found_best_of_one_gpu_is_done_on_each() -> None:
    machine = machine_for(Resources(32, 8, 1), "mlp-256-256", None, None, None, Choice(64, 1))
    assert (machine.max_concurrent, machine.packing) == (8, Packing(64, 8))


def test_no_more_workers_than_cores_come_from_bench() -> None:
    """It counts the machine's cores, of which a container may have few."""
    machine = machine_for(Resources(2, 0, 1), "mlp-256-256", None, None, None, Choice(4, 64))
    assert (machine.max_concurrent, machine.packing) == (2, Packing(4, 2))


def test_blocks_of_two_benchmarks_take_their_own_shares() -> None:
    shares = {"rotated-digits": 0.25, "permuted-digits": 1.0}
    workplace = Workplace("sweep", "results", None, {name: name for name in shares})
    machines = {name: Machine(share, 4, Packing(2)) for name, share in shares.items()}
    trainable: Any = tune.with_resources(StackTrainable, resources_of(workplace, machines))
    for name, share in shares.items():
        run = StudyRun(study("naive-sgd"), protocol(place=replace(PLACE, benchmark=name)), 1)
        block = run.next()
        assert block
        wanted = trainable.default_resource_request({"pack": Pack((block,))})
        assert wanted.required_resources == {"CPU": 1, "GPU": share}


def test_limits_that_are_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("LMC_MAX_GPUS", "many")
    with pytest.raises(UserError, match="LMC_MAX_GPUS must be a whole number, got 'many'"):
        connect()


def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    says = (
        r"no Ray cluster answers at 127\.0\.0\.1:1, where RAY_ADDRESS has it .*refused.*: start it"
    )
    with pytest.raises(UserError, match=says):
        connect()


@pytest.mark.parametrize("address", ["", "local"])
def test_an_address_that_names_no_cluster(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """As for Ray itself: a Ray of our own is started, on loopback and within this memory."""
    started: list[bool] = []
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("lmc_ray.sweep.cluster._start_here", lambda quiet: started.append(True))
    with suppress(Exception):  # nothing has started
        connect()
    assert started


# KubeRay


def test_the_manifests_describe_one_cluster() -> None:
    cluster = RAYCLUSTER["RayCluster/lmc-ray"]["spec"]
    assert RAYJOB["spec"]["rayClusterSpec"] == cluster
    nightly = yaml.safe_load(CARRIED)
    assert nightly["spec"]["rayClusterSpec"] == cluster
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    [group] = cluster["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == 0


def test_the_manifests_agree_with_the_lock_and_with_each_other() -> None:
    cluster = RAYCLUSTER["RayCluster/lmc-ray"]["spec"]
    lock = (PROJECT / "requirements.lock").read_text()
    assert f"\nray=={cluster['rayVersion']} " in lock
    known = RAYCLUSTER["ConfigMap/lmc-ray"]["data"]
    [group] = cluster["workerGroupSpecs"]
    [worker] = group["template"]["spec"]["containers"]
    [head] = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert worker["image"] == head["image"]
    limits = worker["resources"]["limits"]
    assert int(known["LMC_MAX_CPUS"]) == group["maxReplicas"] * int(limits["cpu"])
    assert int(known["LMC_MAX_GPUS"]) == group["maxReplicas"] * int(limits["nvidia.com/gpu"])
    for container in (head, worker):
        assert {"configMapRef": {"name": "lmc-ray"}} in container["envFrom"]
    dockerfile = (CLUSTER / "kuberay" / "Dockerfile").read_text()
    assert f"-t {head['image']} " in dockerfile
    assert f"MNIST('{known['LMC_DATA']}'" in dockerfile
    assert "WORKDIR /opt/lmc-ray\n" in dockerfile
    assert (
        PROJECT / RAYJOB["spec"]["entrypoint"].split()[1].removeprefix("/opt/lmc-ray/")
    ).exists()


def test_the_cronjob_may_do_what_it_does() -> None:
    cron = NIGHTLY["CronJob/lmc-nightly"]["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    pod = cron["jobTemplate"]["spec"]["template"]["spec"]
    account = pod["serviceAccountName"]
    assert f"ServiceAccount/{account}" in NIGHTLY
    binding = NIGHTLY["RoleBinding/lmc-nightly"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    role = NIGHTLY[f"Role/{binding['roleRef']['name']}"]
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "create"]}
    ]
    [volume] = pod["volumes"]
    assert f"ConfigMap/{volume['configMap']['name']}" in NIGHTLY
    [mount] = pod["containers"][0]["volumeMounts"]
    assert mount["name"] == volume["name"]


KUBECTL = """#!/bin/sh
# Kubernetes in a folder: `get rayjob NAME` and `create -f -`, which refuses a name that exists.
if [ "$1" = get ]; then test -e "$OBJECTS/$3"; exit; fi
cat > "$OBJECTS/.new"
name=$(sed -n 's/^metadata: {name: \\(.*\\)}$/\\1/p' "$OBJECTS/.new")
test ! -e "$OBJECTS/$name" && mv "$OBJECTS/.new" "$OBJECTS/$name"
"""


def test_a_night_is_created_once(tmp_path: Path) -> None:
    [container] = NIGHTLY["CronJob/lmc-nightly"]["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"
    ]
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    (tmp_path / "rayjob.yaml").write_text(CARRIED)
    objects = tmp_path / "objects"
    objects.mkdir()
    command = [each.replace("/manifests", str(tmp_path)) for each in container["command"]]
    environment = {"PATH": f"{kubectl.parent}:{os.environ['PATH']}", "OBJECTS": str(objects)}
    said = []
    for _ in range(2):
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        said.append(ended.stdout)
    [night] = objects.iterdir()
    assert night.name in {f"nightly-{datetime.now(UTC):%Y-%m-%d}"}
    again = f"kubectl delete rayjob {night.name}, and create this job again"
    assert said == ["", f"{night.name} exists: if it failed, {again}\n"]
    assert yaml.safe_load(night.read_text())["metadata"] == {"name": night.name}
