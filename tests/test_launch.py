"""cluster/gpu.yaml launched against a stand-in for AWS (moto): head and spot worker, and away.

Slow, and of use only after an edit of the file's cloud side: set LMC_TEST_LAUNCH=1 to run it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not os.environ.get("LMC_TEST_LAUNCH"), reason="LMC_TEST_LAUNCH is not set"),
]

LAUNCH = """
import json, sys
import yaml
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer("127.0.0.1", 0)
server.start()
host, port = server.get_host_and_port()
import os
os.environ["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
import boto3
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider

config = yaml.safe_load(open(sys.argv[1]))
region = config["provider"]["region"]
boto3.client("iam", region_name=region).create_instance_profile(InstanceProfileName="lmc-ray")
config = _bootstrap_config(config, no_config_cache=True)
provider = _get_node_provider(config["provider"], config["cluster_name"])
kinds = {"head": "head", "gpu": "worker"}
for name, kind in kinds.items():
    node_type = config["available_node_types"][name]
    tags = {"ray-node-name": name, "ray-node-type": kind, "ray-launch-config": "x",
            "ray-user-node-type": name, "ray-node-status": "uninitialized"}
    provider.create_node(node_type["node_config"], tags, 1)
ec2 = boto3.client("ec2", region_name=region)
found = {}
for reservation in ec2.describe_instances()["Reservations"]:
    for each in reservation["Instances"]:
        tags = {tag["Key"]: tag["Value"] for tag in each["Tags"]}
        found[tags["ray-user-node-type"]] = {
            "type": each["InstanceType"],
            "spot": each.get("InstanceLifecycle"),
            "image": each["ImageId"],
            "profile": each["IamInstanceProfile"]["Arn"].split("/")[-1],
            "groups": [group["GroupName"] for group in each["SecurityGroups"]],
        }
[group] = ec2.describe_security_groups(
    Filters=[{"Name": "group-name", "Values": ["lmc-ray-ssh-only"]}])["SecurityGroups"]
world = [[rule["FromPort"], rule["ToPort"]] for rule in group["IpPermissions"] if rule["IpRanges"]]
provider.terminate_nodes(provider.non_terminated_nodes({}))
left = provider.non_terminated_nodes({})
resources = {name: config["available_node_types"][name]["resources"] for name in kinds}
print(json.dumps({"found": found, "world": world, "left": left, "resources": resources}))
server.stop()
"""


def test_launch(tmp_path: Path) -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "HOME": str(tmp_path),
        "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
        "PATH": os.environ["PATH"],
    }
    file = Path(__file__).parent.parent / "cluster" / "gpu.yaml"
    ended = subprocess.run(
        [sys.executable, "-c", LAUNCH, file],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    gpu, head = said["found"]["gpu"], said["found"]["head"]
    assert (head["type"], head["spot"]) == ("m6i.large", None)
    assert (gpu["type"], gpu["spot"]) == ("g6.xlarge", "spot")
    assert gpu["profile"] == head["profile"] == "lmc-ray"
    assert gpu["groups"] == head["groups"] == ["lmc-ray-ssh-only"]
    assert said["world"] == [[22, 22]], "SSH and nothing else is open"
    assert said["left"] == []
    assert said["resources"]["head"]["CPU"] == 0
    assert (said["resources"]["gpu"]["CPU"], said["resources"]["gpu"]["GPU"]) == (4, 1)
