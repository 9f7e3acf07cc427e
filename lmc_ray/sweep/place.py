"""Where cells learn: a benchmark, opened as the user asks for it, and a share of a cluster."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from lmc_ray.bench.recommend import Choice, recommended
from lmc_ray.benchmarks import Benchmark, defaults, load
from lmc_ray.benchmarks.locate import is_path
from lmc_ray.errors import UserError
from lmc_ray.home import expanded
from lmc_ray.learners import own_methods
from lmc_ray.models import build, normalises
from lmc_ray.sweep.backoff import patience
from lmc_ray.sweep.cells import Place
from lmc_ray.sweep.cluster import Resources
from lmc_ray.sweep.fit import KEPT_EACH, PATH_ENDS, check_fits
from lmc_ray.sweep.packs import Packing
from lmc_ray.sweep.runner import Machine
from lmc_ray.sweep.trainable import Workplace


class Opened(NamedTuple):
    """A benchmark as the user asks for it."""

    place: Place
    """What all cells on it share."""
    benchmark: Benchmark
    source: str
    """Its name as a worker can open it."""


def open_place(
    name: str, tasks: int | None, data: str | None, angle: float | None, network: str | None
) -> Opened:
    """Open a benchmark.

    Raises:
        UserError: an option that does not fit.
    """
    benchmark = load(name, tasks=tasks, data=data, angle=angle)
    chosen = network or defaults(name, data=data).network
    built = build(chosen, benchmark.image_shape, benchmark.classes)
    place = Place(
        benchmark=benchmark.name,
        tasks=benchmark.tasks,
        angle=benchmark.angle,
        classes_per_task=benchmark.classes_per_task,
        fingerprint=benchmark.fingerprint,
        network=built.name,
    )
    return Opened(place, benchmark, _from_anywhere(name))


def _from_anywhere(benchmark: str) -> str:
    """The benchmark's name for workers, which run in other folders: a path in it made absolute."""
    family, dash, word = benchmark.partition("-")
    return f"{family}{dash}{_absolute(word)}" if is_path(word) else benchmark


def _absolute(path: str) -> str:
    """With its links left in: other nodes may have others, and mount what the user names."""
    return str(expanded(path).absolute())


def workplace_of(
    sweep: str, results: str, data: str | None, sources: Mapping[str, str]
) -> Workplace:
    """Where workers find data and results: they run in other folders, so paths are made absolute.

    Raises:
        UserError: LMC_PATIENCE is no number of seconds.
    """

    def absolute(path: str) -> str:
        return path if urlsplit(path).scheme else _absolute(path)

    where = absolute(data) if data else None
    return Workplace(
        sweep, absolute(results), where, sources, patience=patience(), methods=own_methods()
    )


def noted_for(resources: Resources, network: str, batch_sizes: Sequence[int]) -> Choice | None:
    """What `lmc-ray bench` found best here for the smallest batches, which gain most by stacks.

    Nothing on a cluster: its nodes are other devices.
    """
    return None if resources.joined else recommended(network, min(batch_sizes))


def check_memory_of_workers(
    resources: Resources,
    place: Place,
    benchmark: Benchmark,
    machine: Machine,
    batch_sizes: Sequence[int],
    *,
    kept: int = 0,
    together: int = 1,
) -> None:
    """Refuse workers that would not fit into memory; GPUs halve their stacks instead.

    Args:
        resources: the cluster.
        place: what they train.
        benchmark: what they train on.
        machine: how many workers, and their stacks.
        batch_sizes: of all batches that they may take a gradient of.
        kept: tasks after which a trio's minima are kept as files.
        together: replicas that are one stack, however large stacks are.

    Raises:
        UserError: with the numbers.
    """
    if machine.gpus_per_trial:
        return
    check_fits(
        build(place.network, benchmark.image_shape, benchmark.classes),
        batch_size=max(batch_sizes),
        replicas=max(machine.packing.replicas, together),
        workers=machine.max_concurrent,
        memory=resources.memory,
        kept=KEPT_EACH * kept + PATH_ENDS,
    )


def machine_for(
    resources: Resources,
    network: str,
    gpus_per_trial: float | None,
    max_concurrent: int | None,
    replicas: int | None,
    noted: Choice | None = None,
) -> Machine:
    """How much of the cluster one pack takes, and what is in it.

    Args:
        resources: the cluster.
        network: what is trained.
        gpus_per_trial: the user's wish, as the next two; None: a default.
        max_concurrent: packs at a time.
        replicas: in a stack at most.
        noted: what was found best on this device, before the defaults.

    Raises:
        UserError: more GPUs than the cluster has.
    """
    share = gpus_per_trial
    if share is None:
        # A stack of MLPs waits for its worker's core; one of convolutional networks fills a GPU.
        share = (1.0 if normalises(network) else 0.25) if resources.gpus else 0.0
    if share > 1:
        raise UserError(f"--gpus-per-trial {share:g}: a trial trains on one GPU, or shares it")
    if share > resources.gpus:
        raise UserError(f"--gpus-per-trial {share}: the cluster has {resources.gpus:g} GPUs")
    fit = int(resources.gpus / share) if share else resources.cpus
    workers = max_concurrent or max(1, min(fit, resources.cpus))
    if noted is not None and bool(share) == bool(resources.gpus):  # of one GPU, if of any
        # It may have counted cores that a container does not give.
        workers = max_concurrent or min(workers, noted.workers * max(1, int(resources.gpus)))
        replicas = replicas or noted.replicas
    # On a GPU one large stack is faster than several side by side: as many as there are GPUs.
    apart = min(workers, max(1, int(resources.gpus / max(share, 1)))) if share else workers
    return Machine(share, workers, Packing(replicas or (32 if share else 2), apart))
