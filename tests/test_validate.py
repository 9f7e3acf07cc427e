"""`lmc-ray validate`: every typo is found on its line, offline, and the files we ship are fine."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmc_ray.cli import main
from lmc_ray.clusters import validate

PROJECT = Path(__file__).parent.parent
CLUSTER = PROJECT / "cluster"
GPU = CLUSTER / "gpu.yaml"
ONPREM = CLUSTER / "onprem.yaml"
KUBERAY = sorted((CLUSTER / "kuberay").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the project's folder, with a token in the home folder, as `ray up` needs it."""
    token = tmp_path / "home" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.touch(0o600)
    token.write_text("0123")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(PROJECT)


Check = Callable[..., list[tuple[int, str]]]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Findings about a text: line and message."""

    def found(text: str) -> list[tuple[int, str]]:
        file = tmp_path / "cluster.yaml"
        file.write_text(text)
        return [(each.line, each.message) for each in validate(file)]

    return found


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


@pytest.mark.parametrize("file", [GPU, ONPREM, *KUBERAY], ids=lambda file: file.name)
def test_ours_are_fine(file: Path) -> None:
    assert validate(file) == []


STORAGE = """
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {AWS_ACCESS_KEY_ID: name}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: results}
spec: {accessModes: [ReadWriteMany], resources: {requests: {storage: 10Gi}}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: results}
spec: {capacity: {storage: 10Gi}, nfs: {server: nfs, path: /srv/results}}
"""


def test_a_folder_that_all_nodes_share_may_come_from_anywhere(check: Check) -> None:
    """And stand in one file with the cluster."""
    cluster = (CLUSTER / "kuberay" / "raycluster.yaml").read_text()
    for volume in (
        "nfs: {server: nfs, path: /srv/results}",
        "csi: {driver: fs, volumeAttributes: {a: b}}",
    ):
        documents = list(yaml.safe_load_all(cluster + STORAGE))
        (ray_cluster,) = (each for each in documents if each and each["kind"] == "RayCluster")
        pod = ray_cluster["spec"]["headGroupSpec"]["template"]["spec"]
        pod["volumes"] = [*pod.get("volumes", []), yaml.safe_load("{name: r, " + volume + "}")]
        assert check(yaml.safe_dump_all(documents)) == []


# Typos


def keys(text: str) -> Iterator[yaml.ScalarNode]:
    """Every key of a file, once."""
    stack, seen = [yaml.compose(text, yaml.SafeLoader)], set()
    while stack:
        node = stack.pop()
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.start_mark.index not in seen:
                    seen.add(key.start_mark.index)
                    yield key
                stack.append(value)
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value


def dropped(word: str) -> str:
    """Without the last letter but one."""
    return word[:-2] + word[-1]


def doubled(word: str) -> str:
    return word + word[-1]


def swapped(word: str) -> str:
    """With its last two different neighbours the other way round."""
    at = next(i for i in range(len(word) - 2, -1, -1) if word[i] != word[i + 1])
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


@pytest.mark.parametrize("typo", [dropped, doubled, swapped])
@pytest.mark.parametrize("file", [GPU, ONPREM], ids=["gpu", "onprem"])
def test_a_typo_in_any_key(check: Check, file: Path, typo: Callable[[str], str]) -> None:
    text = file.read_text()
    missed = []
    count = 0
    for key in keys(text):
        if key.value == "gpu":  # a name that one gives, and that nothing else mentions
            continue
        count += 1
        begin, end = key.start_mark.index, key.end_mark.index
        wrong = typo(key.value)
        found = check(text[:begin] + wrong + text[end:])
        if key.start_mark.line + 1 not in [line for line, _ in found]:
            missed.append((key.start_mark.line + 1, wrong, found))
    assert not missed
    assert count >= 20


@pytest.mark.parametrize("file", KUBERAY, ids=lambda file: file.name)
def test_a_typo_in_any_field_of_a_manifest(check: Check, file: Path) -> None:
    """All keys but those that one makes up: labels, limits, data, parameters of `ray start`."""
    free = {"labels", "annotations", "limits", "requests", "data", "rayStartParams", "nodeSelector"}
    missed = []
    text = file.read_text()
    parts = text.split("\n---\n")
    for index, part in enumerate(parts):
        root = yaml.compose(part, yaml.SafeLoader)
        stack = [root]
        while stack:
            node = stack.pop()
            if isinstance(node, yaml.SequenceNode):
                stack += node.value
            if not isinstance(node, yaml.MappingNode):
                continue
            for key, value in node.value:
                if key.value not in free:
                    stack.append(value)
                begin, end = key.start_mark.index, key.end_mark.index
                wrong = part[:begin] + dropped(key.value) + part[end:]
                whole = "\n---\n".join([*parts[:index], wrong, *parts[index + 1 :]])
                before = "\n---\n".join(parts[:index])
                line = before.count("\n") + (2 if index else 0) + key.start_mark.line + 1
                found = check(whole)
                if line not in [where for where, _ in found]:
                    missed.append((line, key.value, found))
    assert not missed


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("region: us-west-2", "region: us-wst-2", "unknown region 'us-wst-2': did you mean 'us-"),
        ("type: aws", "type: asw", "unknown provider 'asw': did you mean 'aws'"),
        ("g6.xlarge", "g6.xlrage", "EC2 knows no 'g6.xlrage': did you mean 'g6.xlarge'"),
        ("MarketType: spot", "MarketType: sopt", "did you mean 'spot'"),
        ("VolumeSize: 60", "VolumeSize: big", "VolumeSize"),
        ("head_node_type: head", "head_node_type: haed", "did you mean 'head'"),
        ("max_workers: 8\nup", "max_workers: eight\nup", "not of type 'integer'"),
        ("LMC_RESULTS=", "LMC_RESLUTS=", "nothing reads LMC_RESLUTS: did you mean 'LMC_RESULTS'"),
        (
            "--dashboard-host=",
            "--dashbord-host=",
            "no option --dashbord-host: did you mean '--dash",
        ),
        ("lmc_ray: lmc_ray", "lmc_ray: lmc_rya", "there is no lmc_rya here"),
    ],
)
def test_a_typo_in_a_value(check: Check, right: str, wrong: str, says: str) -> None:
    text = GPU.read_text()
    found = check(text.replace(right, wrong, 1))
    line = line_of(text, right)
    assert any(where == line and says in message for where, message in found), found


def test_a_command_that_no_shell_reads(check: Check) -> None:
    text = GPU.read_text().replace("    }\n", "")
    line = line_of(text, "    lock=") - 1
    assert [(at, "bash cannot read" in said) for at, said in check(text)] == [(line, True)]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ('"a\\0b"', "a NUL character"),
        ('"\\uD800"', ""),  # half a character: told by whoever runs it
        ('"cat <<END\\nx\\n"', "here-document"),
        ('"cat <<END\\nx\\nEND"', "here-document"),  # Ray's bracket would follow on the line
        ('"cat <<END\\nx\\nEND\\n"', ""),
        ('"true  # a remark"', "unexpected end of file: end it with a line break"),
        ('"true  # a remark\\n"', ""),
        ('"echo it\'s"', "unexpected EOF"),
        ('"true)"', "syntax error"),
    ],
)
def test_a_command_as_ray_runs_it(check: Check, command: str, says: str) -> None:
    text = GPU.read_text() + f"initialization_commands:\n  - {command}\n"
    found = check(text)
    assert [line for line, _ in found] == ([len(text.splitlines())] if says else [])
    assert all(says in message for _, message in found), found


def test_how_bash_speaks_here_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "nowhere.UTF-8")
    assert validate(GPU) == []


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where everything stands in a YAML document."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def with_value(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with something else in one place."""
    if not path:
        return new
    changed = value.copy()
    changed[path[0]] = with_value(value[path[0]], path[1:], new)
    return changed


DOCUMENTS = {file: list(yaml.safe_load_all(file.read_text())) for file in (GPU, ONPREM, *KUBERAY)}
EVERYWHERE = [
    (file, number, path)
    for file, documents in DOCUMENTS.items()
    for number, document in enumerate(documents)
    for path in places(document)
]


ODD = [None, 4, "8", "\0", "\ud800", [], {}, [None], {"a": None}]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(EVERYWHERE), st.sampled_from(ODD))
def test_no_value_is_so_odd_that_nothing_is_said_in_lines(
    check: Check, place: tuple[Path, int, tuple[Any, ...]], odd: Any
) -> None:
    file, number, path = place
    documents = DOCUMENTS[file].copy()
    documents[number] = with_value(documents[number], path, odd)
    for line, message in check(yaml.safe_dump_all(documents)):
        assert line >= 1
        assert message


@pytest.mark.parametrize(
    ("file", "right", "wrong", "says"),
    [
        ("nightly-cronjob", "rayjob.yaml: |", "rayjob.yaml:", "data.rayjob.yaml must be a text"),
        ("raycluster", "- configMapRef: {name: lmc-ray}", "-", "an empty item in "),
        ("rayjob", ".py", ".py --results $LMC_RESULTS", "$LMC_RESULTS is empty"),
    ],
)
def test_what_people_forget_in_manifests(
    check: Check, file: str, right: str, wrong: str, says: str
) -> None:
    text = (CLUSTER / "kuberay" / f"{file}.yaml").read_text()
    assert right in text
    assert says in " ".join(message for _, message in check(text.replace(right, wrong)))


VOLUME = "volumeMounts: [{name: d, mountPath: /d}]\n            image: lmc"
JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}
"""


@pytest.mark.parametrize(
    ("file", "right", "wrong", "says"),
    [
        ("raycluster", 'num-cpus: "0"', "num-cpus: 0", "rayStartParams.num-cpus must be a text"),
        ("raycluster", '"2.60.0"', "2.60", "rayVersion must be a text: quote it"),
        (
            "raycluster",
            "image: lmc",
            "env: [{name: A, value: 1}]\n            image: lmc",
            "value must",
        ),
        (
            "raycluster",
            "{name: lmc-ray}\nspec",
            "{name: a, labels: {b: 1}}\nspec",
            "labels.b must be a",
        ),
        (
            "raycluster",
            "{name: lmc-ray}\nspec",
            "{name: a, annotations: {b: on}}\nspec",
            "annotations.b",
        ),
        ("raycluster", "maxReplicas: 8", 'maxReplicas: "8"', "maxReplicas must be a whole number"),
        ("raycluster", "maxReplicas: 8", "maxReplicas: 8.5", "maxReplicas must be a whole number"),
        ("raycluster", "minReplicas: 0", "minReplicas: true", "minReplicas must be a whole number"),
        (
            "raycluster",
            "minReplicas: 0",
            "minReplicas: 9",
            "from minReplicas (9) to maxReplicas (8)",
        ),
        ("raycluster", "minReplicas: 0", "minReplicas: -1", "from minReplicas (-1) to"),
        ("raycluster", "image: lmc", VOLUME, "volumeMounts: no volume 'd'"),
        ("raycluster", "name: ray-head", "name: ray_head", "name 'ray_head': take lower-case"),
        ("raycluster", "{name: lmc-ray}\nspec", "{name: 1st}\nspec", "name '1st': take"),
        ("raycluster", "{name: lmc-ray}\nspec", f"{{name: {'a' * 54}}}\nspec", "54 characters, 53"),
        ("rayjob", "{name: lmc-mcsgd}", f"{{name: {'a' * 48}}}", "48 characters, 47 at most"),
        ("rayjob", "Finishes: true", "Finishes: false", "needs shutdownAfterJobFinishes: true"),
        ("rayjob", "  shutdownAfterJobFinishes: true", "  #", "needs shutdownAfterJobFinishes"),
        ("nightly-cronjob", "30 1 * * *", "60 1 * * *", "minute '60' is not within 0-59"),
        ("nightly-cronjob", "30 1 * * *", "30 1 0 * *", "day '0' is not within 1-31"),
        ("nightly-cronjob", "30 1 * * *", "30 1 * * 7", "weekday '7' is not within 0-6"),
        ("nightly-cronjob", "30 1 * * *", "30 5-1 * * *", "hour '5-1'"),
        ("nightly-cronjob", "30 1 * * *", "*/0 1 * * *", "minute '*/0'"),
        ("nightly-cronjob", "30 1 * * *", "30 1 * *", "five fields"),
        ("nightly-cronjob", "Etc/UTC", "Europe/Berln", "did you mean 'Europe/Berlin'"),
        ("nightly-cronjob", "restartPolicy: Never", "restartPolicy: Always", "Never or OnFailure"),
        ("nightly-cronjob", "          restartPolicy: Never\n", "", "Never or OnFailure"),
        ("nightly-cronjob", "- name: manifests\n", "- name: manifest\n", "did you mean 'manifest'"),
        ("nightly-cronjob", "minReplicas: 0", "minReplicas: 9", "from minReplicas (9)"),
    ],
)
def test_what_kubernetes_or_kuberay_refuses(
    check: Check, file: str, right: str, wrong: str, says: str
) -> None:
    text = (CLUSTER / "kuberay" / f"{file}.yaml").read_text()
    assert right in text
    found = check(text.replace(right, wrong, 1))
    assert any(says in message for _, message in found), found


def test_a_job_that_never_ends(check: Check) -> None:
    assert check(JOB) == []
    [(_, said)] = check(JOB.replace("Never", "Always"))
    assert "Never or OnFailure" in said


def test_a_rayjob_without_a_cluster(check: Check) -> None:
    head = (
        "apiVersion: ray.io/v1\nkind: RayJob\nmetadata: {name: a}\nspec:\n  entrypoint: true.py\n"
    )
    assert check(head) == [(4, "a RayJob needs a rayClusterSpec or a clusterSelector")]
    assert check(head + "  clusterSelector: {ray.io/cluster: a}\n") == []


@pytest.mark.parametrize(
    "schedule", ["*/5 0-6,22 ? JAN-mar MON", "@daily", "@every 1h30m", "05 1 * * *"]
)
def test_schedules_that_kubernetes_knows(check: Check, schedule: str) -> None:
    text = (CLUSTER / "kuberay" / "nightly-cronjob.yaml").read_text()
    assert check(text.replace("30 1 * * *", schedule)) == []


@pytest.mark.parametrize(
    "pod",
    [
        "topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone}]",
        "dnsPolicy: Default",
        "schedulerName: volcano",
        "nodeName: a",
        "securityContext: {supplementalGroups: [1], fsGroupChangePolicy: OnRootMismatch}",
        "volumes: [{name: a, ephemeral: {volumeClaimTemplate: {spec: {}}}}]",
        "volumes: [{name: a, emptyDir: {}}]",
        "imagePullSecrets: null",
        "affinity: {containers: 3, minReplicas: a}",  # Kubernetes' own to judge
    ],
)
@pytest.mark.parametrize("kind", ["raycluster", "nightly-cronjob"])
def test_whatever_a_pod_may_have(check: Check, kind: str, pod: str) -> None:
    documents = list(yaml.safe_load_all((CLUSTER / "kuberay" / "raycluster.yaml").read_text()))
    spec = documents[1]["spec"]["headGroupSpec"]["template"]["spec"]
    if kind == "nightly-cronjob":
        documents = list(yaml.safe_load_all(JOB))
        spec = documents[0]["spec"]["template"]["spec"]
    spec |= yaml.safe_load(pod)
    if "name: a," in pod:
        mount = {"name": "a", "mountPath": "/a", "subPathExpr": "$(A)", "mountPropagation": "None"}
        spec["containers"][0]["volumeMounts"] = [mount]
    limit = {"resourceFieldRef": {"resource": "limits.cpu", "divisor": 1}}
    spec["containers"][0]["env"] = [{"name": "A", "valueFrom": limit}]
    assert check(yaml.safe_dump_all(documents)) == []


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("v1", "Namespace"),
        ("v1", "Service"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("ray.io/v1", "RayCronJob"),
        ("apps/v1", "Deployment"),
        ("cilium.io/v2", "CiliumNetworkPolicy"),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ],
)
def test_other_kinds_pass(check: Check, version: str, kind: str) -> None:
    other = f"---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: mine}}\nspec: {{}}\n"
    assert check((CLUSTER / "kuberay" / "raycluster.yaml").read_text() + other) == []
    assert check(other) == []


def test_a_service_of_ray_and_names_that_are_made_up(check: Check) -> None:
    cluster = DOCUMENTS[CLUSTER / "kuberay" / "raycluster.yaml"][1]
    service = {
        **cluster,
        "kind": "RayService",
        "metadata": {"generateName": "s-"},
        "spec": {"serveConfigV2": "a", "rayClusterConfig": cluster["spec"]},
    }
    assert check(yaml.safe_dump(service)) == []


@pytest.mark.parametrize(
    ("version", "kind", "near"),
    [
        ("ray.io/v1", "RayWork", "Ray"),
        ("batch/v1", "CronJb", "CronJob"),
        ("v1", "Servce", "Service"),
    ],
)
def test_a_misspelt_kind(check: Check, version: str, kind: str, near: str) -> None:
    [(line, said)] = check(
        f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{}}\n"
    )
    assert line == 2
    assert f"unknown kind '{kind}': did you mean '{near}" in said


@pytest.mark.parametrize("name", ["LMC_LOGS", "LMC_PATIENCE"])
def test_variables_that_may_be_set(check: Check, name: str) -> None:
    text = GPU.read_text()
    assert check(text.replace("export LMC_DATA=", f"export {name}=60\n    export LMC_DATA=")) == []


def test_all_findings_at_once(check: Check) -> None:
    text = GPU.read_text().replace("max_workers: 8\nup", "max_wrokers: 8\nup")
    text = text.replace("InstanceType: g6", "InstanceTyp: g6").replace("ssh_user", "ssh_usr")
    says = " ".join(message for _, message in check(text))
    for word in ("max_wrokers", "InstanceTyp", "ssh_usr"):
        assert f"'{word}'" in says


@pytest.mark.parametrize(
    ("file", "right", "wrong", "says", "where"),
    [
        (ONPREM, ".11, 192.168.1.12", ".11, 192.168.1.11", ".11 stands twice", "worker_ips"),
        (ONPREM, ".11, 192.168.1.12", ".11, 192.168.1.10", ".10 is the head", "worker_ips"),
        (ONPREM, "--head ", "", "a `ray start` with --head,", "head_start"),
        (
            ONPREM,
            " --autoscaling-config=~/ray_boot",
            " #",
            "with --autoscaling-config",
            "head_start",
        ),
        (GPU, "ray start --address=$RAY_HEAD_IP:6379 ", "ray start ", "--address", "worker_start"),
        (GPU, "; ray start --address", "; # ray start --address", "--address", "worker_start"),
        (
            GPU,
            "user: ubuntu\n",
            "user: ubuntu\n  ssh_private_key: ~/k\n",
            "no KeyName",
            "node_config",
        ),
        (
            GPU,
            "region: us-west-2\n",
            "region: us-west-2\n  availability_zone: us-west-2a, us-east-1b\n",
            "us-east-1b is not in the region us-west-2",
            "availability_zone",
        ),
    ],
)
def test_with_what_no_cluster_comes_up(
    check: Check, file: Path, right: str, wrong: str, says: str, where: str
) -> None:
    text = file.read_text()
    assert right in text
    text = text.replace(right, wrong)
    found = check(text)
    line = next(i for i, each in enumerate(text.splitlines(), 1) if each.strip().startswith(where))
    assert any(at == line and says in message for at, message in found), found


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("user: ubuntu\n", "user: ubuntu\n  ssh_private_key: ~/k\n"),
        ("region: us-west-2\n", "region: us-west-2\n  availability_zone: us-west-2a,us-west-2b\n"),
        ("ray start --address=$RAY_HEAD_IP:6379 ", "ray start --address $RAY_HEAD_IP:6379 "),
        ("ulimit -n 65536; ray start --address=", "~/start-worker.sh "),
        (
            "ray start --address=$RAY_HEAD_IP:6379",
            "bash -c 'ray start --address=$RAY_HEAD_IP:6379'",
        ),
        ("- ~/lmc-env/bin/python -m pip install", "- cd ~/lmc-ray && pip install . #"),
    ],
)
def test_with_what_one_does(check: Check, right: str, wrong: str) -> None:
    text = GPU.read_text()
    assert right in text
    text = text.replace(right, wrong)
    if "private_key" in wrong:
        text = text.replace("node_config:\n", "node_config:\n      KeyName: mine\n")
    assert check(text) == []


def test_no_start_commands_are_those_of_ray(check: Check) -> None:
    text = GPU.read_text().replace("  region:", "  rgion:")
    text = text[: text.index("# Ray's own defaults")]
    assert [line for line, _ in check(text)] == [line_of(text, "provider:"), line_of(text, "rgion")]


# What would be dangerous, or silently not work


@pytest.mark.parametrize(
    ("right", "wrong", "says", "where"),
    [
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "open to whoever", None),
        ("--dashboard-host=127.0.0.1", "--dashboard-host 0.0.0.0", "open to whoever", None),
        (
            "~/.ray/auth_token: ~/.ray/auth_token",
            "~/x: ~nobody-here/x",
            "there is no ~nobody",
            None,
        ),
        (
            "~/.ray/auth_token: ~/.ray/auth_token",
            "~/.ray/auth_token: ~nobody-here/auth_token",
            "there is no ~nobody-here/auth_token: make it",
            None,
        ),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "write 'token'", None),
        (
            "    export RAY_AUTH_MODE=token\n",
            "",
            "RAY_AUTH_MODE is set on no node",
            "setup_commands:",
        ),
        ("  ~/.ray/auth_token: ~/.ray/auth_token\n", "", "no authentication token", "file_mounts:"),
        (
            "    export LMC_DATA=$HOME/lmc-data\n",
            "",
            "LMC_DATA is set on no node",
            "setup_commands:",
        ),
        ("s3://my-bucket/lmc\n", "results\n", "share no folder", "LMC_RESULTS=s3"),
        ("LMC_MAX_GPUS=8", "LMC_MAX_GPUS=80", "can grow to 8", None),
        ("    max_workers: 8", "    max_workers: 4", "can grow to 4", "LMC_MAX_CPUS"),
        ("  region: us-west-2\n", "", "needs a `region`", "provider:"),
        ("  ~/lmc-ray/LICENSE: LICENSE\n", "", "LICENSE does not reach", "file_mounts:"),
    ],
)
def test_danger(check: Check, right: str, wrong: str, says: str, where: str | None) -> None:
    text = GPU.read_text()
    assert right in text
    line = line_of(text, where or right)
    found = check(text.replace(right, wrong, 1))
    assert any(at == line and says in message for at, message in found), found


@pytest.mark.parametrize(
    "start",
    [
        "  - |\n    ray start --head --port=6379 \\\n      --dashboard-host=0.0.0.0\n",
        "  - ~/lmc-env/bin/ray start --head --dashboard-host=0.0.0.0\n",
    ],
)
def test_an_open_dashboard_is_seen_however_ray_is_called(check: Check, start: str) -> None:
    text = ONPREM.read_text()
    begin = text.index("head_start_ray_commands:")
    text = text[:begin] + "head_start_ray_commands:\n" + start
    line = line_of(text, "--dashboard-host=0.0.0.0")
    assert [at for at, said in check(text) if "open to whoever" in said] == [line]


def test_an_open_port(check: Check) -> None:
    rule = """
    IpPermissions:
      - {IpProtocol: tcp, FromPort: 22, ToPort: 22, IpRanges: [{CidrIp: 0.0.0.0/0}]}
      - {IpProtocol: tcp, FromPort: 8265, ToPort: 8265, IpRanges: [{CidrIp: 0.0.0.0/0}]}"""
    text = GPU.read_text().replace("GroupName: lmc-ray-ssh-only", "GroupName: mine" + rule)
    assert [(line, "more than SSH" in said) for line, said in check(text)] == [
        (line_of(text, "- {IpProtocol: tcp, FromPort: 8265"), True)
    ]


def test_rays_default_start_opens_the_dashboard(check: Check) -> None:
    text = GPU.read_text()
    text = text[: text.index("head_start_ray_commands")]
    assert any("0.0.0.0 by default" in said for _, said in check(text))


def test_secrets_in_a_file(check: Check) -> None:
    text = GPU.read_text().replace("LMC_MAX_GPUS=8", "LMC_MAX_GPUS=8 AWS_SECRET_ACCESS_KEY=abc")
    found = check(text)
    assert [line for line, _ in found] == [line_of(text, "AWS_SECRET")]
    assert "abc" not in found[0][1]


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("export LMC_RESULTS=", "#export LMC_RESULTS=", "LMC_RESULTS is set on no node"),
        ("export LMC_DATA=", "# LMC_DATA=", "LMC_DATA is set on no node"),
        ("export RAY_AUTH_MODE=", "# export RAY_AUTH_MODE=", "RAY_AUTH_MODE is set on no node"),
        ("MODE=token\n", "MODE=token\n    unset RAY_AUTH_MODE\n", "is set on no node"),
        ("MODE=token\n", "MODE=token\n    unset A RAY_AUTH_MODE\n", "undoes what was set"),
        ("export LMC_MAX_CPUS=", "# export LMC_MAX_CPUS=", "LMC_MAX_CPUS is not set"),
        ("    grep -qs lmc", "    # grep -qs lmc", "lost when the command ends"),
        (" >> ~/.bashrc", "; . ~/.bashrc", "lost when the command ends"),
        ("- ~/lmc-env/bin/python -m pip", "- |\n    true  # python -m pip", "no command installs"),
    ],
)
def test_what_is_commented_out_or_undone_is_not_set(
    check: Check, right: str, wrong: str, says: str
) -> None:
    text = GPU.read_text()
    assert right in text
    found = check(text.replace(right, wrong))
    assert any(says in message for _, message in found), found


@pytest.mark.parametrize(
    "line",
    [
        "echo 'export LMC_DATA=/data  # here' >> ~/.lmc-ray.sh",
        "unset LMC_DATA; export LMC_DATA=/data",
        'echo "a # b"; export LMC_DATA=/data',
        "echo a#b; export LMC_DATA=/data",
    ],
)
def test_what_is_set_beside_a_remark(check: Check, line: str) -> None:
    assert check(GPU.read_text().replace("export LMC_DATA=$HOME/lmc-data", line)) == []


def test_a_secret_in_a_comment(check: Check) -> None:
    text = GPU.read_text().replace(
        "    export LMC_DATA", "    # AWS_SESSION_TOKEN=a\n    export LMC_DATA"
    )
    assert [line for line, _ in check(text)] == [line_of(text, "AWS_SESSION")]


def test_variables_of_the_head_only(check: Check) -> None:
    text = GPU.read_text().replace("    export LMC_DATA=$HOME/lmc-data\n", "")
    text += "head_setup_commands:\n  - echo 'export LMC_DATA=/data' >> ~/.bashrc\n"
    assert [(line, "does not reach all" in said) for line, said in check(text)] == [
        (len(text.splitlines()), True)
    ]


def test_variables_that_end_with_their_command(check: Check) -> None:
    text = GPU.read_text().replace(">> ~/.bashrc", "> /dev/null").replace("~/.bashrc", "~/x")
    assert any("lost when the command ends" in said for _, said in check(text))


def test_a_token_that_others_can_read(tmp_path: Path) -> None:
    token = tmp_path / "home" / ".ray" / "auth_token"
    token.chmod(0o644)
    assert ["others can read" in each.message for each in validate(GPU)] == [True]
    token.unlink()
    assert ["get-auth-token" in each.message for each in validate(GPU)] == [True]


def test_a_folder_is_no_token(check: Check, tmp_path: Path) -> None:
    (tmp_path / "auth_token").mkdir(mode=0o700)
    text = GPU.read_text().replace(": ~/.ray/auth_token\n", f": {tmp_path}/auth_token\n")
    assert any(f"there is no {tmp_path}/auth_token: make it" in said for _, said in check(text))


def test_elsewhere_the_mounts_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"there is no" in each.message for each in validate(GPU)} == {True}


# What is no cluster file at all


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("~\n", "empty"),
        ("---\n---\n", "empty"),
        ("- a\n- b\n", "must be a mapping"),
        ("hello\n", "must be a mapping"),
        ("a: [1\n", "not YAML"),
        ("a: b: c\n", "not YAML"),
        ("a: 1\na: 2\n", "given twice"),
        ("a:\n  4090: 1\n", "the key 4090 is no text: quote it"),
        ("a: 2020-13-45\n", "'2020-13-45' is no timestamp: put it in quotes"),
        ("2020-13-45: a\n", "is no timestamp"),
        ("a: !!int x\n", "'x' is no int"),
        ("a: !!timestamp x\n", "'x' is no timestamp"),
        ("a: &a [*a]\n", "contains itself"),
        ("? [x]\n: y\n", "a key must be a word"),
        ("a: !!python/object:os.system {}\n", "not YAML"),
        ("cluster_name: x\n", "`provider`"),
        ("cluster_name: x\nprovider: aws\n", "`provider`"),
        ("cluster_name: x\nprovider: {type: local}\n", "`head_ip`"),
        ("cluster_name: x\nprovider: {type: local, head_ip: a, worker_ips: b}\n", "worker_ips"),
        ("cluster_name: x\nprovider: {type: aws, region: []}\navailable_node_types: 3\n", "type"),
        ("kind: RayClutser\n", "did you mean 'RayCluster'"),
        ("kind: RayCluster\n", "apiVersion ray.io/v1"),
        ("kind: [RayCluster]\n", "unknown kind"),
        ("apiVersion: ray.io/v1\nkind: RayCluster\nmetadata: 3\nspec: 4\n", "must be a mapping"),
    ],
)
def test_no_cluster_file(check: Check, text: str, says: str) -> None:
    found = check(text)
    assert any(says in message for _, message in found), found
    assert all("\n" not in message for _, message in found)


def test_the_line_of_a_syntax_error(check: Check) -> None:
    assert [line for line, _ in check("a: 1\nb: [1,\nc: }\n")] == [3]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    assert ["UTF-8" in each.message for each in validate(tmp_path / "x.yaml")] == [True]


# The command


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["validate", "cluster/gpu.yaml", "cluster/onprem.yaml"])
    assert not ended.value.code
    assert capsys.readouterr().out == "cluster/gpu.yaml: OK\ncluster/onprem.yaml: OK\n"

    bad = tmp_path / "bad.yaml"
    bad.write_text(GPU.read_text().replace("ssh_user", "ssh_usr"))
    with pytest.raises(SystemExit) as ended:
        main(["validate", str(bad), str(tmp_path / "none.yaml"), "cluster/gpu.yaml"])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "cluster/gpu.yaml: OK\n"
    lines = captured.err.splitlines()
    assert len(lines) == 2
    line = line_of(GPU.read_text(), "ssh_user")
    assert lines[0].startswith(f"{bad}:{line}: unknown key 'ssh_usr' in auth: did you mean 'ssh_")
    assert lines[1] == f"{tmp_path}/none.yaml:1: cannot be read: No such file or directory"


def test_nothing_but_the_file_is_touched() -> None:
    """Offline: no socket is opened, and neither torch nor a Ray of ours is started."""
    code = f"""
import socket, sys
def refuse(*_, **__): raise AssertionError("a socket")
socket.socket.connect = refuse
from pathlib import Path
from lmc_ray.clusters import validate
assert validate(Path({str(GPU)!r})) == []
assert "torch" not in sys.modules
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert not re.search("Traceback", ended.stderr)
