"""Checks the file mounts of a launcher file: their local sides, the package, the token."""

import re
import stat
from collections import Counter
from pathlib import Path as File
from typing import Any

from lmc_ray.clusters.commands import uncommented
from lmc_ray.clusters.document import Document, texts
from lmc_ray.errors import UserError
from lmc_ray.home import expanded

PACKAGE = ("lmc_ray", "pyproject.toml", "requirements.lock", "README.md", "LICENSE")
"""What pip needs to install the package on a node."""

TOKEN = "~/.ray/auth_token"


def check_mounts(document: Document) -> None:
    """Note mounts without a local side, and what must be mounted and is not."""
    mounts = document.value.get("file_mounts")
    mounts = mounts if isinstance(mounts, dict) else {}
    for remote, local in mounts.items():
        if not isinstance(local, str):
            document.add(("file_mounts", remote), f"file_mounts: {remote} needs a local path")
        elif local != TOKEN and not ((there := _here(local)) and there.exists()):
            document.add(
                ("file_mounts", remote),
                f"file_mounts: there is no {local} here; paths count from the folder that `ray up` "
                "is run in, the project's",
            )
    _check_token(document, mounts)
    docker = document.value.get("docker")
    if not (isinstance(docker, dict) and docker.get("image")):  # else the image may have it
        _check_package(document, mounts)


def _check_token(document: Document, mounts: dict[Any, Any]) -> None:
    where = [key for key, local in mounts.items() if File(str(local)).name == "auth_token"]
    if not where:
        document.add(("file_mounts",), f"no authentication token: mount {TOKEN} to {TOKEN}")
    for remote in where:
        path = ("file_mounts", remote)
        token = _here(str(mounts[remote]))
        if remote != TOKEN and not str(remote).endswith("/.ray/auth_token"):
            document.add(path, f"the token must lie at {TOKEN} on the nodes, not at {remote}")
        if token is None or not token.is_file():
            document.add(
                path,
                f"there is no {mounts[remote]}: make it with `ray get-auth-token --generate`",
            )
        elif stat.S_IMODE(token.stat().st_mode) & 0o077:
            document.add(path, f"others can read {mounts[remote]}: chmod 600 {mounts[remote]}")


def _here(local: str) -> File | None:
    """The local side of a mount; None below nobody's home."""
    try:
        return expanded(local)
    except UserError:
        return None


def _check_package(document: Document, mounts: dict[Any, Any]) -> None:
    """All of the package's files, each under its name, in one folder that pip is sent to."""
    there = {File(str(local)).name: File(str(key)) for key, local in mounts.items()}
    folders = Counter(str(there[name].parent) for name in PACKAGE if name in there)
    folder = folders.most_common(1)[0][0] if folders else "~/lmc-ray"
    for name in PACKAGE:
        if name not in there:
            document.add(("file_mounts",), f"the package's {name} does not reach the nodes")
        elif there[name] != File(folder, name):
            message = f"pip looks for {folder}/{name}, not for {there[name]}"
            document.add(("file_mounts", str(there[name])), message)
    said = [uncommented(text) for _, text in texts(document.value.get("setup_commands"))]
    here = re.compile(rf"{re.escape(folder)}/?(?![\w/.-])")  # and not only its lock
    if not any("pip install" in text and here.search(text) for text in said):
        document.add(("setup_commands",), f"no command installs the package from {folder} with pip")
