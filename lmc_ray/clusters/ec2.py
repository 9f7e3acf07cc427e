"""Checks what goes to AWS against the cloud's own model of it, which botocore carries along."""

from functools import cache
from typing import Any

from lmc_ray.clusters.document import Document, Path, nearest

_FROM_RAY = {"SubnetIds"}
"""In node_config, but Ray's and not EC2's."""


def check_aws(document: Document) -> None:
    """Note what EC2 would refuse, and ports that it would open to the world."""
    config = document.value
    model = _model()
    provider = config["provider"]
    if "region" not in provider:
        document.add(("provider",), "a provider of type 'aws' needs a `region`")
    elif provider["region"] not in (known := _regions()):
        region = str(provider["region"])
        document.add(("provider", "region"), f"unknown region '{region}'{nearest(region, known)}")
    else:
        zones = provider.get("availability_zone")
        for zone in zones.split(",") if isinstance(zones, str) else ():
            if not zone.strip().startswith(provider["region"]):
                message = (
                    f"availability_zone: {zone.strip()} is not in the region {provider['region']}"
                )
                document.add(("provider", "availability_zone"), message)
    if "aws_credentials" in provider:
        document.add(
            ("provider", "aws_credentials"),
            "credentials in a file: give them in the environment (AWS_PROFILE, AWS_ACCESS_KEY_ID…)",
        )
    launch = model.operation_model("RunInstances").input_shape
    types = config.get("available_node_types")
    for name, node_type in types.items() if isinstance(types, dict) else ():
        node = node_type.get("node_config") if isinstance(node_type, dict) else None
        if not isinstance(node, dict):
            continue
        path: Path = ("available_node_types", name, "node_config")
        _check(document, path, {k: v for k, v in node.items() if k not in _FROM_RAY}, launch, True)
        if "InstanceType" not in node:
            document.add(path, f"node type '{name}' has no InstanceType")
        if _own_key(config) and not {"KeyName", "UserData"} & set(node):
            document.add(
                path,
                f"node type '{name}' has no KeyName, AWS's name for ssh_private_key: add it, or "
                "leave ssh_private_key out (`ray up` makes a key)",
            )
        if "SecurityGroupIds" not in node and "NetworkInterfaces" in node:
            _check_public(document, path, node["NetworkInterfaces"])
    _check_group(document, provider.get("security_group"), model)


def _own_key(config: dict[str, Any]) -> bool:
    auth = config.get("auth")
    return isinstance(auth, dict) and "ssh_private_key" in auth


@cache
def _model() -> Any:
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model("ec2", "service-2"))


@cache
def _regions() -> list[str]:
    from botocore.loaders import Loader

    partitions = Loader().load_data("partitions")["partitions"]
    return [region for each in partitions for region in each["regions"]]


def _check(document: Document, path: Path, value: Any, shape: Any, top: bool = False) -> None:
    from botocore.validate import ParamValidator

    where = ".".join(str(part) for part in path[2:])
    if shape.type_name == "structure" and isinstance(value, dict):
        for key, inner in value.items():
            if key in shape.members:
                _check(document, (*path, key), inner, shape.members[key])
            else:
                advice = nearest(str(key), shape.members)
                document.add((*path, key), f"EC2 knows no '{key}' in {where}{advice}")
        for key in () if top else shape.required_members:  # MinCount and MaxCount come from Ray
            if key not in value:
                document.add(path, f"EC2 needs '{key}' in {where}")
    elif shape.type_name == "list" and isinstance(value, list):
        for index, inner in enumerate(value):
            _check(document, (*path, index), inner, shape.member)
    else:
        errors = ParamValidator().validate(value, shape)
        if errors.has_errors():
            said = errors.generate_report().replace(" for parameter ,", "")
            document.add(path, f"{where}: {' '.join(said.split())}")
        elif getattr(shape, "enum", None) and value not in shape.enum:
            document.add(path, f"{where}: EC2 knows no '{value}'{nearest(value, shape.enum)}")


def _check_group(document: Document, group: Any, model: Any) -> None:
    rules = group.get("IpPermissions") if isinstance(group, dict) else None
    if rules is None:
        return
    path: Path = ("provider", "security_group", "IpPermissions")
    shape = model.operation_model("AuthorizeSecurityGroupIngress").input_shape
    _check(document, path, rules, shape.members["IpPermissions"])
    every: list[Any] = rules if isinstance(rules, list) else []
    for index, rule in enumerate(every):
        if not isinstance(rule, dict) or not (rule.get("IpRanges") or rule.get("Ipv6Ranges")):
            continue  # from other security groups or prefix lists: not the world
        ports = {rule.get("FromPort"), rule.get("ToPort")}
        if rule.get("IpProtocol") != "tcp" or ports != {22}:
            document.add(
                (*path, index),
                "opens more than SSH: whoever reaches Ray's ports runs code on the cluster; remove "
                "the rule and use `ray dashboard` (a tunnel)",
            )


def _check_public(document: Document, path: Path, interfaces: Any) -> None:
    every: list[Any] = interfaces if isinstance(interfaces, list) else []
    for index, each in enumerate(every):
        if isinstance(each, dict) and not each.get("Groups"):
            document.add((*path, "NetworkInterfaces", index), "an interface without `Groups`")
