"""Checks manifests for KubeRay: fields, exposure, authentication, LMC_* in every Ray container."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from lmc_ray.clusters.document import Document, Path, nearest, read
from lmc_ray.clusters.environment import NEEDED, SECRETS, check_names
from lmc_ray.clusters.fields import KINDS, REQUIRED
from lmc_ray.clusters.refused import check_refused

TYPES = {str: "a text: quote it", int: "a whole number", bool: "true or false"}


def check_manifests(documents: list[Document], carried: bool = False) -> None:
    """Note what is wrong with each object, and with what they say of each other.

    Args:
        documents: the objects; those of kinds that are not ours pass unread.
        carried: they are templates in a ConfigMap, whose names are still to be filled in.
    """
    maps = {_name(each): each for each in documents if _kind(each) == "ConfigMap"}
    for document in documents:
        if not _check_object(document):
            continue
        check_names(document)
        check_refused(document, carried)
        for path, spec in _clusters(document):
            _check_cluster(document, path, spec, maps)
        if _kind(document) == "RayJob":
            _check_entrypoint(document)
        if _kind(document) == "CronJob":
            _check_cron(document)
        if _kind(document) == "ConfigMap":
            _check_carried(document)


def _check_object(document: Document) -> bool:
    """Whether the object is one that can be checked further."""
    value, kind = document.value, _kind(document)
    if isinstance(kind, str) and kind not in KINDS and _foreign(kind, value.get("apiVersion", "")):
        return False
    if not isinstance(kind, str) or kind not in KINDS:
        message = f"unknown kind '{kind}'{nearest(str(kind), KINDS)}"
        document.add(("kind",), message if kind else "a manifest needs a `kind`")
        for key in value if isinstance(value, dict) and not kind else ():
            if nearest(str(key), ["kind"]):
                document.add((key,), f"unknown key '{key}': did you mean 'kind'?")
        return False
    version, fields = KINDS[kind]
    if value.get("apiVersion") != version:
        document.add(("apiVersion",), f"a {kind} has apiVersion {version}")
    _check_fields(document, (), value, fields)
    metadata = value.get("metadata")
    generated = isinstance(metadata, dict) and "generateName" in metadata
    for path in (*(() if generated else (("metadata", "name"),)), *REQUIRED.get(kind, ())):
        inner = value
        for key in path:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if inner is None:
            document.add(path, f"a {kind} needs {'.'.join(path)}")
    return not document.findings


def _foreign(kind: str, version: Any) -> bool:
    """Whether a kind is Kubernetes' or another operator's, and not one of ours misspelt."""
    near = get_close_matches(kind, KINDS, n=1, cutoff=0.8)
    ours = near and version in ("", KINDS[near[0]][0])
    return bool(kind) and not ours and not str(version).startswith("ray.io/")


def _check_fields(document: Document, path: Path, value: Any, fields: Any) -> None:
    if isinstance(fields, list) and isinstance(value, list):
        for index, inner in enumerate(value):
            if inner is None:
                document.add((*path, index), f"an empty item in {_dotted(path)}")
            _check_fields(document, (*path, index), inner, fields[0])
    elif isinstance(fields, dict) and isinstance(value, dict):
        where = f" in {_dotted(path)}" if path else ""
        for key, inner in value.items():
            if key not in fields and "*" not in fields:
                advice = nearest(str(key), fields)
                document.add((*path, key), f"unknown key '{key}'{where}{advice}")
            else:
                _check_fields(document, (*path, key), inner, fields.get(key, fields.get("*")))
    elif value is None:
        if path[-1:] == ("name",):
            document.add(path, f"{_dotted(path)} must be a text")
    elif isinstance(fields, list | dict):
        wanted = "list" if isinstance(fields, list) else "mapping"
        document.add(path, f"{_dotted(path)} must be a {wanted}")
    elif fields is not None and type(value) is not fields:  # a bool is no int here
        document.add(path, f"{_dotted(path)} must be {TYPES[fields]}")


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)


def _clusters(document: Document) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The cluster that an object describes."""
    spec = document.value.get("spec")
    if _kind(document) == "RayCluster":
        yield ("spec",), spec
    elif _kind(document) == "RayJob" and spec.get("rayClusterSpec"):
        yield ("spec", "rayClusterSpec"), spec["rayClusterSpec"]


def _check_cluster(
    document: Document, path: Path, spec: dict[str, Any], maps: dict[str, Document]
) -> None:
    head = spec.get("headGroupSpec") or {}
    there: Path = (*path, "headGroupSpec")
    if head.get("serviceType", "ClusterIP") != "ClusterIP":
        document.add(
            (*there, "serviceType"),
            f"serviceType {head['serviceType']} opens the head to others, who can run code there: "
            "use ClusterIP and `kubectl port-forward`",
        )
    if head.get("enableIngress"):
        document.add((*there, "enableIngress"), "an ingress opens the dashboard to others")
    if (spec.get("authOptions") or {}).get("mode") != "token":
        document.add((*path, "authOptions"), "authentication is off: authOptions: {mode: token}")
    groups: list[tuple[Path, Any]] = [(there, head)]
    for index, group in enumerate(spec.get("workerGroupSpecs") or []):
        groups.append(((*path, "workerGroupSpecs", index), group))
    for where, group in groups:
        containers = ((group.get("template") or {}).get("spec") or {}).get("containers") or []
        if not containers:
            document.add((*where, "template"), "a group needs a pod with a container")
            continue
        # KubeRay runs Ray in the first container.
        ray: Path = (*where, "template", "spec", "containers", 0)
        _check_container(document, ray, containers[0], maps)


def _check_container(
    document: Document, path: Path, container: dict[str, Any], maps: dict[str, Document]
) -> None:
    known: set[str] = set()
    for index, each in enumerate(container.get("env") or []):
        known.add(each.get("name"))
        if each.get("name") in SECRETS and each.get("value"):
            message = f"{each['name']}: a secret in a file; take it from a Secret (secretKeyRef)"
            document.add((*path, "env", index), message)
    elsewhere = False
    for each in container.get("envFrom") or []:
        name = (each.get("configMapRef") or {}).get("name")
        if name in maps:
            data = maps[name].value.get("data")
            known |= set(data) if isinstance(data, dict) else set()
        elsewhere |= name is not None and name not in maps
    missing = [] if elsewhere else [name for name in NEEDED if name not in known]
    if missing:
        document.add(path, f"{', '.join(missing)} not set in this container (env or envFrom)")


def _check_entrypoint(document: Document) -> None:
    """KubeRay's submitter, whose shell reads the command, has none of the head's variables."""
    for name in re.findall(r"\$\{?(\w+)", str(document.value["spec"]["entrypoint"])):
        message = (
            f"the pod that submits the entrypoint has not the head's environment: ${name} is empty"
            " there; leave it out (what the head has in LMC_… is each option's default)"
        )
        document.add(("spec", "entrypoint"), message)


def _check_cron(document: Document) -> None:
    spec = document.value["spec"]
    if spec.get("concurrencyPolicy") != "Forbid":
        document.add(
            ("spec", "concurrencyPolicy"),
            "two pods could create objects at a time: concurrencyPolicy: Forbid (what they create"
            " runs on: end a RayJob with its activeDeadlineSeconds)",
        )


def _check_carried(document: Document) -> None:
    """Manifests that a ConfigMap carries for a CronJob to create."""
    data = document.value["data"]
    if not isinstance(data, dict):
        document.add(("data",), "data must be a mapping")
        return
    for key, text in data.items():
        if not isinstance(text, str):
            document.add(("data", key), f"data.{key} must be a text: write `{key}: |`, or quote it")
            continue
        if not str(key).endswith((".yaml", ".yml")):
            continue
        first, _ = document.spans["data", key]
        inner, findings = read(text)
        check_manifests(inner, carried=True)
        for finding in [*findings, *(found for each in inner for found in each.findings)]:
            document.findings.append(type(finding)(first + finding.line, finding.message))


def _kind(document: Document) -> Any:
    return document.value.get("kind") if isinstance(document.value, dict) else None


def _name(document: Document) -> str:
    metadata = document.value.get("metadata")
    return str(metadata.get("name")) if isinstance(metadata, dict) else ""
