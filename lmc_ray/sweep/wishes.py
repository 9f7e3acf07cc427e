"""What the command line says about studies: which ones, on which benchmarks, how set."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmc_ray.benchmarks import Benchmark, defaults
from lmc_ray.errors import UserError, unknown
from lmc_ray.learners import METHODS, hyperparameters
from lmc_ray.learners.presets import preset as preset_values
from lmc_ray.models import normalises, unrounded
from lmc_ray.sweep.declared import Study, check_apart, check_studies
from lmc_ray.sweep.space import Range, distributions, tried
from lmc_ray.sweep.tuned import tuned, tuned_with
from lmc_ray.tables.groups import called

DEFAULT_BENCHMARK = "rotated-digits"
PARETO_MEMORY = Range(1, 10)
"""What a Pareto search tries for memory_per_class, unless the script or --set gives a range."""

ByBenchmark = Mapping[str, Sequence[Study]]
"""Studies by their benchmark, named as the user names it."""


@dataclass(frozen=True)
class Wishes:
    """What the command line says about the studies of every benchmark."""

    data: str | None
    network: str | None
    """None for each benchmark's usual one."""
    settings: dict[str, Any]
    preset: str | None
    pareto: bool
    confirm_only: bool
    methods: Sequence[str] | None
    """Only the studies of these; None for all."""
    paths: bool
    """False: of no study, whatever the script says."""


def benchmarks_of(
    given: Sequence[str] | None, data: str | None, declared: Sequence[str]
) -> list[str]:
    """The benchmarks of a sweep, each once.

    The user's, else that in LMC_BENCHMARK, else the script's where images are at hand.

    Args:
        given: every --benchmark.
        data: folder of the images.
        declared: the benchmarks that the script is for; empty if it runs on one, whichever.

    Raises:
        UserError: several, for a script that runs on one.
    """
    if not declared and given and len(given) > 1:
        raise UserError(f"--benchmark {' and '.join(given)}: give one; sweeps/paper.py takes more")
    if given:
        return list(dict.fromkeys(given))
    if wanted := os.environ.get("LMC_BENCHMARK"):
        return [wanted]
    return list(declared) if data and declared else [DEFAULT_BENCHMARK]


def as_wished(studies: ByBenchmark, wishes: Wishes) -> dict[str, list[Study]]:
    """The studies as the command line wants them; a benchmark without any is left out.

    Raises:
        UserError: something names what is not there, or a setting does not fit.
    """
    for each in studies.values():
        check_studies(each)
    every = [study for each in studies.values() for study in each]
    if wishes.preset:
        preset_values(wishes.preset, "rotated")
    for benchmark in studies:  # an unknown one comes before all that is said of its studies
        defaults(benchmark, data=wishes.data)
    _check_settings(wishes.settings, every)
    for name in wishes.methods or ():
        _known(name, every)
    chosen = {
        benchmark: _chosen(_adjusted(each, benchmark, wishes), wishes.methods)
        for benchmark, each in studies.items()
    }
    for each in chosen.values():
        check_apart(each)
        _check_controls(each)
    _check_some(every, wishes)
    if wishes.confirm_only:
        _check_tuned(chosen, wishes.network)
    return {benchmark: each for benchmark, each in chosen.items() if each}


def borrowed(studies: ByBenchmark, wishes: Wishes) -> list[str]:
    """Which of the configurations that ship were tuned with another network, a line a benchmark.

    Args:
        studies: as the script declares them.
        wishes: the command line's.
    """
    network, found = wishes.network, list[str]()
    for benchmark, each in studies.items():
        usual = defaults(benchmark, data=wishes.data).network
        if network is None or unrounded(network) == usual:
            continue
        names = [
            study.name
            for study in _chosen(list(each), wishes.methods)
            if study.control is None
            and _as_shipped(study, benchmark, wishes)
            and not tuned_with(benchmark, _shipped_as(study), network)
        ]
        if names:
            found.append(f"on {benchmark} tuned with {usual}, not {network}: {', '.join(names)}")
    return found


def apart(network: str, method: str) -> dict[str, str]:
    """How a method takes batches from its memory where the network normalises by the batch.

    Statistics over examples of several tasks would be no task's.
    """
    names = ("connect_batches", "replay_batches") if normalises(network) else ()
    return {name: "by_task" for name in names if name in _fields(method)}


def check_memory(study: Study, benchmark: Benchmark) -> None:
    """Refuse a memory that some class cannot fill; each trial would find out only after training.

    Raises:
        UserError: the largest memory that the study may try is more than a class has.
    """
    most = max(tried(study.space.get("memory_per_class", 0)))
    with_replacement = study.space.get("memory_draw") == "random"
    if most > (least := benchmark.smallest_class) and not with_replacement:
        raise UserError(
            f"memory_per_class={most} is more than a class of {benchmark.name} has: {least}"
            " training images; choose a smaller memory"
        )


def check_floor(study: Study) -> None:
    """Refuse learning rates that are none: below `lr_floor`, all are the floor.

    Raises:
        UserError: the study may try one.
    """
    own = hyperparameters(study.method, {})
    rates, floors = (
        tried(study.space.get(name, getattr(own, name))) for name in ("learning_rate", "lr_floor")
    )
    if min(rates) < max(floors):
        raise UserError(
            f"learning_rate {min(rates):g} of {study.name} is below lr_floor, {max(floors):g}, and"
            " would be that: begin higher, or --set lr_floor=0"
        )


def batch_sizes(studies: Sequence[Study], *names: str) -> list[int]:
    """Every value of these fields that the studies list or fix, and the ends of their ranges."""
    found: list[int] = []
    for study in studies:
        own = vars(hyperparameters(study.method, {}))
        for name in own.keys() & set(names):
            found += map(int, tried(study.space.get(name, own[name])))
    return found


def _chosen(studies: list[Study], names: Sequence[str] | None) -> list[Study]:
    """Those that the user names, in the order of the script."""
    if names is None:
        return studies
    wanted = [study.name for name in names for study in called(name, studies)]
    return [study for study in studies if study.name in wanted]


def _known(name: str, studies: Sequence[Study]) -> list[Study]:
    """The studies that a user means.

    Raises:
        UserError: there are none.
    """
    found = called(name, studies)
    if not found:
        raise unknown("study", name, list(dict.fromkeys(study.name for study in studies)))
    return found


def _fields(method: str) -> Mapping[str, Any]:
    return METHODS[method].hyperparameters.__dataclass_fields__


def _check_settings(settings: Mapping[str, Any], studies: Sequence[Study]) -> None:
    """Each setting has to fit a study.

    Raises:
        UserError: it names no study, or no hyperparameter of one.
    """
    for setting in settings:
        study, dot, name = setting.rpartition(".")
        meant = _known(study, studies) if dot else studies
        known = {field for each in meant for field in _fields(each.method)}
        if name not in known:
            raise unknown("hyperparameter", name, known)


def _check_some(studies: Sequence[Study], wishes: Wishes) -> None:
    """What is asked for has to mean something to some study of the script.

    Raises:
        UserError: it does not, or contradicts something else.
    """
    free = [study for study in studies if not study.pinned]
    if wishes.preset and not any(study.method == "mcsgd" for study in free):
        raise UserError(f"--preset {wishes.preset}: the script has no MC-SGD to set")
    if wishes.pareto:
        if wishes.confirm_only:
            raise UserError("--pareto searches, and --confirm-only does not: give one of them")
        if not any("memory_per_class" in _fields(study.method) for study in free):
            raise UserError("--pareto: the script has no method with a memory")
        for name, value in wishes.settings.items():
            if name.rpartition(".")[2] == "memory_per_class" and len(tried(value)) < 2:
                raise UserError(f"--pareto searches {name}: give a range, such as {name}=1:10")


def _check_tuned(chosen: ByBenchmark, network: str | None) -> None:
    """Whether the package ships a configuration of everything that --confirm-only is to confirm.

    A pinned study has its own, a control that of the study beside it; where nothing is searched,
    the script has said what to confirm.

    Raises:
        UserError: it does not; says of all that is missing.
    """
    missing = [
        f"{' '.join(names)} on {benchmark}"
        for benchmark, studies in chosen.items()
        if (
            names := [
                study.name
                for study in studies
                if not study.pinned
                and not study.control
                and _shipped(study, benchmark, network) is None
                and _searches(study)
            ]
        )
    ]
    if missing:
        raise UserError(
            f"no tuned configuration ships with lmc-ray of {', '.join(missing)}:"
            " leave --confirm-only out, or choose with --method and --benchmark"
        )


def _check_controls(studies: Sequence[Study]) -> None:
    """A control that searched would come to settings of its own, and be none.

    Nor is it one from the initial weights of its study, or without it.

    Raises:
        UserError: what it would search, what is wrong with that in itself, or what is missing.
    """
    by_name = {study.name: study for study in studies}
    for study in studies:
        if study.control is None:
            continue
        if study.control not in by_name:
            raise UserError(
                f"{study.name} is there to be measured against {study.control}: choose both"
                f" (--method {study.control} --method {study.name})"
            )
        values = [_initialisation(each) for each in (study, by_name[study.control])]
        if values[0] == values[1]:
            raise UserError(
                f"{study.name} is to start from other initial weights than {study.control}:"
                f" not both from initialisation {values[0]}"
            )
        if names := distributions(study.method, study.space):
            raise UserError(
                f"{study.name} is to have the settings of {study.control}, which searches"
                f" {', '.join(names)}: give one value, or leave {study.name} out"
                f" (--method {study.control})"
            )


def _initialisation(study: Study) -> Any:
    return study.space.get("initialisation", hyperparameters(study.method, {}).initialisation)


def _adjusted(studies: Sequence[Study], benchmark: str, wishes: Wishes) -> list[Study]:
    """A benchmark's studies as the command line wants them; a setting goes where its name fits."""
    usual = defaults(benchmark, data=wishes.data)
    network = wishes.network or usual.network
    family = benchmark.partition("-")[0]
    order = [study.name for study in studies]
    adjusted: list[Study] = []
    for study in sorted(studies, key=lambda study: study.control is not None):
        space: dict[str, Any] = {
            "epochs": usual.epochs,
            **apart(network, study.method),
            **_space(study, benchmark, wishes, adjusted),
        }
        settings = _settings(study, studies, wishes)
        preset = study.preset or (None if study.pinned else wishes.preset)
        if preset and study.method == "mcsgd":
            values = preset_values(preset, family)
            often = settings.get("epochs", space["epochs"])
            if "first_task_epochs" in values and "first_task_epochs" not in settings:
                if not isinstance(often, int):
                    raise UserError(
                        f"--preset {preset} has twice the epochs on task 1: set epochs to one"
                        " number, or first_task_epochs too"
                    )
                values["first_task_epochs"] *= often  # the authors' two stand beside one a task
            space |= values
        remembers = "memory_per_class" in _fields(study.method)
        if wishes.pareto and remembers and not study.pinned:
            space["memory_per_class"] = _searched(space.get("memory_per_class"), PARETO_MEMORY)
        space |= settings
        adjusted.append(replace(study, space=space, paths=study.paths and wishes.paths))
    return sorted(adjusted, key=lambda each: order.index(each.name))


def _settings(study: Study, studies: Sequence[Study], wishes: Wishes) -> dict[str, Any]:
    """The command line's settings that are meant for a study."""
    own, every = _fields(study.method), wishes.settings
    found = {} if study.pinned else {name: every[name] for name in every if name in own}
    for setting, value in every.items():  # outweighs what names no study
        named, dot, name = setting.rpartition(".")
        if dot and study in called(named, studies):
            found[name] = value
    return found


def _space(study: Study, benchmark: str, wishes: Wishes, others: Sequence[Study]) -> dict[str, Any]:
    """A study's space before the command line's settings."""
    if study.control is not None:
        like = next(other for other in others if other.name == study.control)
        own, settings = _fields(study.method), METHODS[like.method].settings | {**like.space}
        return {name: value for name, value in settings.items() if name in own} | {**study.space}
    shipped = _as_shipped(study, benchmark, wishes)
    return dict(study.space) if shipped is None else shipped


def _as_shipped(study: Study, benchmark: str, wishes: Wishes) -> dict[str, Any] | None:
    """What ships for a study that is to be as it ships; None where it is not, or nothing does."""
    # Where nothing is searched the script has said what to confirm.
    said = study.space and not _searches(study)
    if study.pinned or not (study.tuned or (wishes.confirm_only and not said)):
        return None
    return _shipped(study, benchmark, wishes.network)


def _searches(study: Study) -> bool:
    return any(isinstance(value, Range | list) for value in study.space.values())


def _shipped(study: Study, benchmark: str, network: str | None) -> dict[str, Any] | None:
    """What ships for a study, if anything does."""
    return tuned(benchmark, _shipped_as(study), network)


def _shipped_as(study: Study) -> str:
    """By its name, or by its method where it says that it is tuned."""
    return study.method if study.tuned else study.name


def _searched(value: Any, default: Range) -> Any:
    return value if isinstance(value, Range | list) else default
