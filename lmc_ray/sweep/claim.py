"""One driver a sweep in a cluster: a second one of the same name and root is refused.

It saves work and is no lock that results rest on: between clusters there is none, and the ledger
counts every cell once all the same.
The claim is a named actor that belongs to its driver, not a detached one: Ray ends it with the
driver, however that dies, so it never stands in the way of a restart.
"""

import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lmc_ray.errors import UnavailableError

NAMESPACE = "lmc-ray"
GRACE = 5.0
"""Seconds that Ray may take to notice that the driver before us is dead, or to answer."""


@dataclass(frozen=True)
class Owner:
    """A driver, as people find it."""

    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __str__(self) -> str:
        """Which one to look for."""
        return f"process {self.process} on {self.host}, since {self.since:%Y-%m-%d %H:%M} UTC"


class _Claim:
    """Lives as long as the driver that made it."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def owner(self) -> Owner:
        """Whose claim this is."""
        return self._owner


@contextmanager
def claimed(sweep: str, root: str) -> Iterator[None]:
    """Be the only driver of a sweep in this cluster meanwhile.

    Raises:
        UnavailableError: another driver is at work on it; says which.
    """
    me = Owner()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    claim: Any = ray.remote(num_cpus=0, max_restarts=-1)(_Claim).options(
        name=f"{root.rstrip('/')}#{sweep}",
        namespace=NAMESPACE,
        get_if_exists=True,
        scheduling_strategy=here,
    )
    end = time.monotonic() + GRACE
    while True:
        actor = claim.remote(me)
        try:
            owner = ray.get(actor.owner.remote(), timeout=GRACE)
        except (RayActorError, GetTimeoutError):
            owner = None  # its driver has just ended, or the question was lost with a node
        if owner == me:
            break
        if owner and time.monotonic() > end:
            raise UnavailableError(
                f"sweep '{sweep}' is at work already ({owner}): wait for it, stop it, or choose"
                " another --name"
            )
        time.sleep(0.2)
    try:
        yield
    finally:
        ray.kill(actor)
