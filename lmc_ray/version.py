"""Which code produced a result."""

import hashlib
import os
from functools import cache
from pathlib import Path

from lmc_ray import __version__


@cache
def version() -> str:
    """The package's version and a hash of its own source files, e.g. ``0.1.0+3f2a90c1b7de``."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def git_commit() -> str | None:
    """The commit that the code was built from, where LMC_GIT_COMMIT tells it."""
    return os.environ.get("LMC_GIT_COMMIT") or None
