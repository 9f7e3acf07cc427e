"""Starting or finding Ray, and making sure that all nodes see the same results."""

import logging
import os
import socket
import uuid
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import TaskUnschedulableError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lmc_ray.benchmarks import cache
from lmc_ray.errors import UnavailableError, UserError
from lmc_ray.store.files import one_line

# What the Ray cluster launcher leaves on the head node of a cluster that it made.
HEAD_MARK = Path("~/ray_bootstrap_config.yaml")

STARTS = 4
"""How often a Ray of our own is started where it does not come up."""


ANSWERS_IN = 10.0
"""Seconds within which a cluster's head takes a connection."""


@dataclass(frozen=True)
class Resources:
    """What the cluster has, or can grow to."""

    cpus: int
    gpus: float
    nodes: int
    joined: bool = False
    """Whether it was there before us, and may serve others."""
    memory: float = inf
    """Bytes that Ray has for workers, where it is ours alone; a cluster's nodes see to themselves.
    """


def connect() -> Resources:
    """Join the cluster of RAY_ADDRESS or of this head node; else start Ray here, on loopback.

    A Ray that somebody else started on this machine is left alone unless RAY_ADDRESS names it.
    A cluster that launches machines on demand tells how far by LMC_MAX_CPUS and LMC_MAX_GPUS: when
    a sweep begins, there may be none yet.

    Raises:
        UserError: LMC_MAX_CPUS or LMC_MAX_GPUS is no number, the cluster does not answer, or Ray
            does not start.
    """
    address = os.environ.get("RAY_ADDRESS") or ("auto" if HEAD_MARK.expanduser().exists() else "")
    joined = address not in ("", "local")
    most = {name: _most(name) if joined else 0 for name in ("CPU", "GPU")}
    if os.environ.get("LMC_CACHE"):  # workers run in other folders
        os.environ["LMC_CACHE"] = str(cache.root())
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Tune would otherwise write each result three times over, to files that nobody reads.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Nor does anybody read its state, all trials so far, which it would write now and then.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", str(2**31))
    # Which trials did not complete is told by us, and some have been run again since.
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    # In a short sweep its copy at the start meets that at the end, and may miss a file: no news.
    logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # ours serves the whole command
    # A lost worker is no news for the terminal; the log has it.
    os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if not ray.is_initialized():
        if joined:
            _join(address, quiet)
        else:
            _start_here(quiet)
    total = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    cpus, gpus = (max(total.get(name, 0), most[name]) for name in ("CPU", "GPU"))
    memory = inf if joined else total.get("memory", inf)
    return Resources(int(cpus), float(gpus), nodes, joined, memory)


def _most(name: str) -> int:
    value = os.environ.get(f"LMC_MAX_{name}S") or "0"
    if not value.isdecimal():
        raise UserError(f"LMC_MAX_{name}S must be a whole number, got '{value}'")
    return int(value)


def _join(address: str, quiet: dict[str, Any]) -> None:
    """Join a cluster.

    Raises:
        UnavailableError: it does not answer.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():  # Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), ANSWERS_IN).close()
        ray.init(address=address, **quiet)
    except Exception as problem:  # Ray has no class of its own for it
        why = "RAY_ADDRESS" if os.environ.get("RAY_ADDRESS") else str(HEAD_MARK)
        raise UnavailableError(
            f"no Ray cluster answers at {address}, where {why} has it ({one_line(problem)}): start"
            f" it, or take {why} away for a Ray of this sweep's own"
        ) from None


def _start_here(quiet: dict[str, Any]) -> None:
    """Start a Ray of our own.

    Raises:
        UnavailableError: it did not start: a raylet gives up where its helpers take more than 15 s.
    """
    # Where the machine has a network, Ray takes that address in place of 127.0.0.1 and listens on
    # every interface, unless told that clusters are off. It reads the variable for that
    # (RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0) when imported, which is past.
    ray_constants.ENABLE_RAY_CLUSTER = False
    for left in reversed(range(STARTS)):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=100 * 2**20,  # results go to Parquet, not through Ray
                _node_ip_address="127.0.0.1",
                **quiet,
            )
            return
        except Exception as problem:  # Ray has no class of its own for it
            ray.shutdown()
            if not left:
                raise UnavailableError(
                    f"Ray did not start in {STARTS} tries, this machine may be too busy"
                    f" ({one_line(problem)}): run the same command again"
                ) from None


def check_shared(folder: str) -> None:
    """Every node must read a file that this one writes to `folder`, or results would scatter.

    Args:
        folder: a whole path, as the nodes are told it.

    Raises:
        UserError: names the node that does not see it.
    """
    probe = Path(folder) / f".probe-{uuid.uuid4().hex}"
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.write_text("lmc-ray\n")
    try:
        exists = ray.remote(num_cpus=0)(_exists)
        for node in ray.nodes():
            if not node["Alive"]:
                continue
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            try:
                seen = ray.get(exists.options(scheduling_strategy=there).remote(str(probe)))
            except (TaskUnschedulableError, WorkerCrashedError):
                continue  # the node has gone, which Ray may notice only now
            if not seen:
                raise UserError(
                    f"node {node['NodeManagerAddress']} does not see the results root {folder}:"
                    " use a folder that all nodes share, or object storage (--results s3://…)"
                )
    finally:
        probe.unlink(missing_ok=True)


def _exists(path: str) -> bool:
    return Path(path).exists()
