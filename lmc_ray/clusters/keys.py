"""Keys that nobody reads: typos in a launcher file, at any level that Ray's schema describes."""

from typing import Any

from lmc_ray.clusters.document import Document, Path, nearest

_ANY = frozenset(
    {
        "type",
        "disable_node_updaters",
        "disable_launch_config_check",
        "foreground_node_launch",
        "use_internal_ips",
        "worker_liveness_check",
        "worker_rpc_drain",
    }
)
# What the providers read (Ray 2.60); the schema lets everything through there.
_PROVIDER = {
    "aws": _ANY
    | {
        "availability_zone",
        "aws_credentials",
        "cache_stopped_nodes",
        "cloudwatch",
        "key_pair",
        "region",
        "security_group",
    },
    "local": _ANY | {"coordinator_address", "external_head_ip", "head_ip", "worker_ips"},
}
_INSIDE = {
    "aws_credentials": {"aws_access_key_id", "aws_secret_access_key", "aws_session_token"},
    "key_pair": {"key_name"},
}
# Other names are a user's own resources, unless they look like one of these.
_RESOURCES = ("CPU", "GPU", "memory", "object_store_memory", "TPU")


def check_keys(document: Document, schema: dict[str, Any]) -> None:
    """Note every key that Ray or the provider does not know, with the nearest one that it does."""
    config = document.value
    provider = config.get("provider")
    kind = str(provider.get("type")) if isinstance(provider, dict) else None
    top = set(schema["properties"]) - {"no_restart"}
    if kind == "local":
        top = (top | {"min_workers"}) - {"available_node_types", "head_node_type"}
    _check(document, (), config, top)
    for key, value in config.items():
        if key in schema["properties"] and key != "provider":
            _descend(document, (key,), value, schema["properties"][key])
    if kind in _PROVIDER and isinstance(provider, dict):
        _check(document, ("provider",), provider, _PROVIDER[kind])
        groups = schema["properties"]["provider"]["properties"]["security_group"]
        _descend(document, ("provider", "security_group"), provider.get("security_group"), groups)
        for key, known in _INSIDE.items():
            _check(document, ("provider", key), provider.get(key), known)


def _descend(document: Document, path: Path, value: Any, schema: dict[str, Any]) -> None:
    if not isinstance(value, dict):
        return
    if known := schema.get("properties"):
        _check(document, path, value, known)
        for key, inner in value.items():
            if key in known:
                _descend(document, (*path, key), inner, known[key])
    elif path[-1] == "resources":
        for name in value:
            near = nearest(str(name).upper(), [each.upper() for each in _RESOURCES])
            if name not in _RESOURCES and near:
                document.add((*path, name), f"unknown resource '{name}'{near}")
    elif patterns := schema.get("patternProperties"):
        for key, inner in value.items():
            _descend(document, (*path, key), inner, patterns[".*"])


def _check(document: Document, path: Path, value: Any, known: Any) -> None:
    if not isinstance(value, dict):
        return
    where = f" in {'.'.join(str(part) for part in path)}" if path else ""
    for key in value:
        if key not in known:
            document.add((*path, key), f"unknown key '{key}'{where}{nearest(str(key), known)}")
