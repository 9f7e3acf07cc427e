"""Checks what the nodes of a cluster know: LMC_* everywhere, authentication, no secrets."""

import re
from typing import Any

from lmc_ray.clusters.commands import commands, uncommented
from lmc_ray.clusters.document import Document, Path, nearest, texts

VARIABLES = (
    "LMC_BENCHMARK",
    "LMC_CACHE",
    "LMC_DATA",
    "LMC_GIT_COMMIT",
    "LMC_LOGS",
    "LMC_MAX_CPUS",
    "LMC_MAX_GPUS",
    "LMC_PATIENCE",
    "LMC_RESULTS",
)
NEEDED = ("LMC_RESULTS", "LMC_DATA", "LMC_BENCHMARK")
"""What every node must know, so that the bare `ray submit` is a real sweep."""

_ASSIGNED = re.compile(r"(?<![\w$])([A-Z][A-Z0-9_]*)=(\"[^\"]*\"|'[^']*'|[^\s;]*)")
_UNSET = r"\bunset\s+(?P<unset>[^;&|\n]*)"
_STARTUP_FILE_WRITTEN = re.compile(
    r"(?:>|\b(?:tee|cp|mv|ln|sed|install)\b)(?:[^;&|\n]|\\\n)*"
    r"(?:\.bashrc|\.bash_profile|\.profile|/etc/profile|/etc/environment)"
)
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN")


def check_environment(document: Document) -> None:
    """Note what does not reach all nodes, what nobody reads, and what nobody should write."""
    places = _places(document)
    _check_secrets(document, places)
    found = _assigned(document, places)
    setup = [text for _, text in texts(document.value.get("setup_commands"))]
    kept = any(_STARTUP_FILE_WRITTEN.search(uncommented(text)) for text in setup)
    for name in (*NEEDED, "RAY_AUTH_MODE"):
        _check_reaches_all(document, name, found.get(name, []), kept)
    for path, value in found.get("RAY_AUTH_MODE", []):
        if value != "token":
            document.add_at(path, "RAY_AUTH_MODE", f"authentication is '{value}': write 'token'")
    check_names(document)
    _check_results(document, found.get("LMC_RESULTS", []))
    _check_most(document, found)


def _places(document: Document) -> list[tuple[Path, str]]:
    """What may set variables: commands, and Docker's run options."""
    docker = document.value.get("docker")
    places = list(commands(document.value))
    for key in ("run_options", "head_run_options", "worker_run_options"):
        places += texts(docker.get(key) if isinstance(docker, dict) else None, ("docker", key))
    return places


def _check_secrets(document: Document, places: list[tuple[Path, str]]) -> None:
    """Note secrets, in comments too."""
    for path, text in places:
        for name, value in _ASSIGNED.findall(text):
            if name in SECRETS and (value := value.strip("\"'")) and not value.startswith("$"):
                document.add_at(path, name, f"{name}: a secret in a file; mount or export it")


def _assigned(
    document: Document, places: list[tuple[Path, str]]
) -> dict[str, list[tuple[Path, str]]]:
    """NAME=value by name, but for comments and for what an `unset` in the same command undoes."""
    found: dict[str, list[tuple[Path, str]]] = {}
    for path, text in places:
        for each in re.finditer(f"{_ASSIGNED.pattern}|{_UNSET}", uncommented(text)):
            if each[1]:
                found.setdefault(each[1], []).append((path, each[2].strip("\"'")))
            for name in (each["unset"] or "").split():
                earlier = found.get(name.strip("\"'"), [])
                if any(place == path for place, _ in earlier):
                    document.add_at(path, "unset", f"`unset {name}` undoes what was set above it")
                    found[name] = [place for place in earlier if place[0] != path]
    return found


def _check_reaches_all(
    document: Document, name: str, places: list[tuple[Path, str]], kept: bool
) -> None:
    common = [path for path, _ in places if path[0] == "setup_commands" or "run_options" in path]
    if not places:
        document.add(
            ("setup_commands",),
            f"{name} is set on no node: in setup_commands, write it to a file that ~/.bashrc reads",
        )
    elif not common:
        document.add_at(
            places[0][0],
            name,
            f"{name} does not reach all nodes: set it in setup_commands, which run on every node",
        )
    elif not kept and "docker" not in common[0]:
        document.add_at(
            common[0],
            name,
            f"{name} is lost when the command ends: write it to a file that ~/.bashrc reads",
        )


def check_names(document: Document) -> None:
    """Note LMC_* names that nothing reads."""
    for path, text in texts(document.value):
        for name in sorted(set(re.findall(r"\bLMC_[A-Z0-9_]+", text)) - set(VARIABLES)):
            document.add_at(path, name, f"nothing reads {name}{nearest(name, VARIABLES)}")


def _check_results(document: Document, places: list[tuple[Path, str]]) -> None:
    provider = document.value["provider"]
    for path, value in places:
        if provider["type"] != "local" and "://" not in value:
            document.add_at(
                path,
                "LMC_RESULTS",
                f"LMC_RESULTS={value}: machines in a cloud share no folder; use object storage",
            )


def _check_most(document: Document, found: dict[str, list[tuple[Path, str]]]) -> None:
    """LMC_MAX_CPUS and LMC_MAX_GPUS must tell what the node types can grow to."""
    types = document.value.get("available_node_types")
    most = document.value.get("max_workers")
    if not isinstance(types, dict) or not isinstance(most, int):
        return
    for name, resource in (("LMC_MAX_CPUS", "CPU"), ("LMC_MAX_GPUS", "GPU")):
        has = [_resource(node, resource) for node in types.values()]
        if None in has:
            continue  # found out by Ray when it launches
        limits = [node.get("max_workers", most) for node in types.values()]
        if not all(isinstance(limit, int) for limit in limits):
            return  # Ray's schema has said so
        counts = [min(limit, most) for limit in limits]
        workers = [
            count * amount
            for kind, count, amount in zip(types, counts, has, strict=True)
            if kind != document.value.get("head_node_type") and amount is not None
        ]
        expected = sum(workers)
        if expected and not found.get(name):
            message = f"{name} is not set: sweeps cannot tell that {expected} {resource}s may come"
            document.add(("max_workers",), message)
        for path, value in found.get(name, []):
            if value.isdecimal() and int(value) != expected:
                message = f"{name}={value}, but the node types can grow to {expected}"
                document.add_at(path, name, message)


def _resource(node: Any, resource: str) -> int | None:
    resources = node.get("resources") if isinstance(node, dict) else None
    amount = resources.get(resource, 0) if isinstance(resources, dict) and resources else None
    return amount if isinstance(amount, int) else None
