"""Checks a file for Ray's cluster launcher (`ray up`)."""

import contextlib
import io
import json
import logging
from pathlib import Path as File
from typing import Any

from lmc_ray.clusters.commands import check_commands
from lmc_ray.clusters.document import Document, Path, nearest
from lmc_ray.clusters.ec2 import check_aws
from lmc_ray.clusters.environment import check_environment
from lmc_ray.clusters.keys import check_keys
from lmc_ray.clusters.mounts import check_mounts


def check_launcher(document: Document) -> None:
    """Note what is wrong with the whole file."""
    config = document.value
    if not isinstance(config, dict):
        document.add((), "not a cluster file: it must be a mapping with `provider` and others")
        return
    schema = _schema()
    check_keys(document, schema)
    provider = config.get("provider")
    if not isinstance(provider, dict) or not isinstance(provider.get("type"), str):
        message = "`provider` must be a mapping that names its `type`"
        document.add(("provider",), message)
        for key in provider if isinstance(provider, dict) else ():
            if nearest("type", [str(key)]):
                document.add(("provider", key), f"unknown key '{key}': {message}")
        return
    prepared = _prepared(document)
    _check_types(document, schema, prepared or {"cluster_synced_files": [], **config})
    _check_head_type(document)
    if prepared is None or document.findings:
        effective = config  # what Ray would fill in cannot be told yet
    else:
        _check_rest(document, prepared)
        effective = prepared
    if provider["type"] == "aws":
        check_aws(document)
    _check_addresses(document)
    check_commands(document, effective)
    check_environment(document)
    check_mounts(document)


def _schema() -> dict[str, Any]:
    import ray.autoscaler

    return json.loads((File(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def _prepared(document: Document) -> dict[str, Any] | None:
    """The file as Ray completes it from its defaults; None where it cannot."""
    from ray.autoscaler._private.providers import (
        _NODE_PROVIDERS,  # pyright: ignore[reportPrivateUsage]
    )
    from ray.autoscaler._private.util import prepare_config

    provider = document.value["provider"]
    if provider["type"] not in _NODE_PROVIDERS:
        advice = nearest(str(provider["type"]), _NODE_PROVIDERS)
        document.add(("provider", "type"), f"unknown provider '{provider['type']}'{advice}")
        return None
    if provider["type"] == "local" and "coordinator_address" not in provider:
        missing = [name for name in ("head_ip", "worker_ips") if name not in provider]
        for name in missing:
            document.add(("provider",), f"a provider of type 'local' needs `{name}`")
        if missing or not isinstance(provider["worker_ips"], list):
            return None
    try:
        # Ray prints and logs what it does.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)
            return prepare_config(document.value)
    except Exception as problem:  # whatever an odd file makes of Ray's own code
        if not document.findings:
            document.add((), f"Ray cannot use the file: {type(problem).__name__} {problem}")
        return None


def _check_types(document: Document, schema: dict[str, Any], config: dict[str, Any]) -> None:
    from jsonschema import Draft7Validator

    for error in Draft7Validator(schema).iter_errors(config):
        if error.validator != "additionalProperties":  # told by key, with the nearest one
            path: Path = tuple(error.absolute_path)
            where = ".".join(str(part) for part in path) or "the file"
            document.add(path, f"{where}: {error.message}")


def _check_head_type(document: Document) -> None:
    types = document.value.get("available_node_types")
    head = document.value.get("head_node_type")
    if isinstance(types, dict) and isinstance(head, str) and head not in types:
        # Either may have the typo.
        message = f"head_node_type: there is no node type '{head}'{nearest(head, types)}"
        document.add(("head_node_type",), message)
        for name in types:
            if nearest(head, [name]):
                document.add(("available_node_types", name), message)


def _check_addresses(document: Document) -> None:
    """Every machine of one's own once: Ray's provider ends in an assertion otherwise."""
    provider = document.value["provider"]
    listed = provider.get("worker_ips")
    for index, address in enumerate(listed if isinstance(listed, list) else ()):
        if address == provider.get("head_ip"):
            document.add(
                ("provider", "worker_ips", index),
                f"worker_ips: {address} is the head, which needs no second place: remove it",
            )
        elif address in listed[:index]:
            document.add(("provider", "worker_ips", index), f"worker_ips: {address} stands twice")


def _check_rest(document: Document, prepared: dict[str, Any]) -> None:
    """Ray's own checks beyond the schema: counts of workers, the head's type."""
    from ray.autoscaler._private.util import validate_config

    try:
        validate_config(prepared)
    except (ValueError, RuntimeError) as problem:
        about = next((key for key in ("max_workers", "head_node_type") if key in str(problem)), "")
        document.add((about,), " ".join(str(problem).split()))
