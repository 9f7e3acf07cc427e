"""What the API server or KubeRay refuse although every field is known."""

import re
from collections.abc import Iterator
from typing import Any

from lmc_ray.clusters.cron import wrong_schedule, wrong_zone
from lmc_ray.clusters.document import Document, Path, nearest
from lmc_ray.clusters.fields import KINDS, POD, WORKERS

_WORD = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LETTER_FIRST = "[a-z]([-a-z0-9]*[a-z0-9])?"
_DOTTED = rf"{_WORD}(\.{_WORD})*"
_NAMES = {
    "CronJob": (52, _DOTTED),
    "Job": (63, _DOTTED),
    "Namespace": (63, _WORD),
    # KubeRay leaves room in 63 for what it appends.
    "RayCluster": (53, _LETTER_FIRST),
    "RayJob": (47, _LETTER_FIRST),
    "RayService": (47, _LETTER_FIRST),
    "Role": (253, ".*"),
    "RoleBinding": (253, ".*"),
    "Service": (63, _LETTER_FIRST),
}
"""The longest name of a kind, and what it is made of."""


def check_refused(document: Document, carried: bool) -> None:
    """Note what `kubectl apply` would refuse, or KubeRay after it.

    Args:
        document: an object of a known kind whose fields are known.
        carried: its name is still to be filled in.
    """
    kind, spec = document.value["kind"], document.value.get("spec")
    if not carried:
        longest, pattern = _NAMES.get(kind, (253, _DOTTED))
        _check_name(document, ("metadata", "name"), document.value["metadata"], longest, pattern)
    if kind == "RayJob":
        _check_job(document, spec)
    if kind == "CronJob":
        for key, wrong in (("schedule", wrong_schedule), ("timeZone", wrong_zone)):
            if spec.get(key) is not None and (message := wrong(spec[key])):
                document.add(("spec", key), message)
        _check_ends(document, ("spec", "jobTemplate", "spec", "template", "spec"))
    if kind == "Job":
        _check_ends(document, ("spec", "template", "spec"))
    for path, inner, fields in _mappings(document.value, KINDS[kind][1], ()):
        if fields is POD:
            _check_pod(document, path, inner)
        elif fields is WORKERS:
            _check_counts(document, path, inner)


def _mappings(value: Any, fields: Any, path: Path) -> Iterator[tuple[Path, dict[str, Any], Any]]:
    """Every mapping whose fields are known, and these."""
    if isinstance(value, dict) and isinstance(fields, dict):
        yield path, value, fields
        for key, inner in value.items():
            yield from _mappings(inner, fields.get(key), (*path, key))
    elif isinstance(value, list) and isinstance(fields, list):
        for index, inner in enumerate(value):
            yield from _mappings(inner, fields[0], (*path, index))


def _check_name(
    document: Document, path: Path, named: dict[str, Any], longest: int, pattern: str
) -> None:
    name = named.get("name")
    if isinstance(name, str) and not re.fullmatch(pattern, name):
        message = "take lower-case letters, digits and hyphens, a letter first and no hyphen last"
        document.add(path, f"name '{name}': {message}")
    elif isinstance(name, str) and len(name) > longest:
        document.add(path, f"name '{name}': {len(name)} characters, {longest} at most")


def _check_job(document: Document, spec: dict[str, Any]) -> None:
    if not spec.get("rayClusterSpec") and not spec.get("clusterSelector"):
        document.add(("spec",), "a RayJob needs a rayClusterSpec or a clusterSelector")
    if (spec.get("ttlSecondsAfterFinished") or 0) > 0 and not spec.get("shutdownAfterJobFinishes"):
        document.add(
            ("spec", "ttlSecondsAfterFinished"),
            "ttlSecondsAfterFinished needs shutdownAfterJobFinishes: true",
        )


def _check_ends(document: Document, path: Path) -> None:
    pod = document.value
    for key in path:
        pod = pod[key]
    if pod.get("restartPolicy") not in ("Never", "OnFailure"):
        message = "a Job's pod needs a restartPolicy: Never or OnFailure"
        document.add((*path, "restartPolicy"), message)


def _check_counts(document: Document, path: Path, group: dict[str, Any]) -> None:
    least, most = group.get("minReplicas") or 0, group.get("maxReplicas")
    if least < 0 or (most is not None and most < least):
        message = f"from minReplicas ({least}) to maxReplicas ({most}) there is no number"
        document.add((*path, "minReplicas" if least < 0 else "maxReplicas"), message)


def _check_pod(document: Document, path: Path, pod: dict[str, Any]) -> None:
    volumes = [each.get("name", "") for each in pod.get("volumes") or []]
    for key in ("containers", "initContainers", "volumes"):
        for index, each in enumerate(pod.get(key) or []):
            where: Path = (*path, key, index)
            _check_name(document, (*where, "name"), each, 63, _WORD)
            for number, mount in enumerate(each.get("volumeMounts") or []):
                if (name := mount.get("name", "")) not in volumes:
                    message = f"volumeMounts: no volume '{name}'{nearest(name, volumes)}"
                    document.add((*where, "volumeMounts", number), message)
