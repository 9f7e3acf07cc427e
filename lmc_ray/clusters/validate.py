"""Checks a cluster file, whatever its kind."""

from pathlib import Path

from lmc_ray.clusters.document import Finding, read
from lmc_ray.clusters.kuberay import check_manifests
from lmc_ray.clusters.launcher import check_launcher


def validate(path: Path) -> list[Finding]:
    """What is wrong with a file for `ray up` or for KubeRay, by line; nothing is contacted.

    File mounts are looked up from the working directory, as Ray does it.
    """
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        return [Finding(1, "not YAML: not a text in UTF-8")]
    except OSError as problem:
        return [Finding(1, f"cannot be read: {problem.strerror}")]
    documents, findings = read(text)
    if findings:
        return sorted(set(findings))
    if any(isinstance(each.value, dict) and "kind" in each.value for each in documents):
        check_manifests(documents)
    else:
        check_launcher(documents[0])
        for extra in documents[1:]:
            extra.add((), "a second document: `ray up` reads files with one")
    return sorted({finding for each in documents for finding in each.findings})
