"""What the command line says about studies: on which benchmarks, which of them, how set."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmc_ray.errors import UserError
from lmc_ray.learners import hyperparameters
from lmc_ray.learners.hyperparameters import BATCHES
from lmc_ray.learners.presets import PRESETS
from lmc_ray.paper import TABLE_1
from lmc_ray.sweep import Range, Study
from lmc_ray.sweep.declared import check_studies
from lmc_ray.sweep.proposals import History
from lmc_ray.sweep.space import distributions, fixed
from lmc_ray.sweep.tuned import tuned
from lmc_ray.sweep.wishes import Wishes, as_wished, batch_sizes, benchmarks_of, borrowed

PAPER = runpy.run_path(str(Path(__file__).parent.parent / "sweeps" / "paper.py"))
DECLARED = PAPER["BENCHMARKS"]
DIGITS = ("rotated-digits", "permuted-digits")


def wishes(**changes: Any) -> Wishes:
    nothing = {"data": None, "network": None, "settings": {}, "preset": None, "methods": None}
    usual = {"pareto": False, "confirm_only": False, "paths": True}
    return Wishes(**(nothing | usual | changes))


@pytest.mark.parametrize(
    ("given", "environment", "data", "declared", "found"),
    [
        (None, None, None, (), ["rotated-digits"]),
        (None, None, "data", (), ["rotated-digits"]),
        (None, None, None, DECLARED, ["rotated-digits"]),
        (None, None, "data", DECLARED, DECLARED),
        (None, "split-digits", "data", DECLARED, ["split-digits"]),
        (None, "split-digits", None, (), ["split-digits"]),
        (None, "", "data", DECLARED, DECLARED),
        (["rotated-mnist"], "split-digits", "data", DECLARED, ["rotated-mnist"]),
        (["b", "a", "b"], None, None, DECLARED, ["b", "a"]),
        ([""], None, None, DECLARED, [""]),
    ],
)
def test_the_benchmarks_of_a_sweep(
    monkeypatch: pytest.MonkeyPatch,
    given: list[str] | None,
    environment: str | None,
    data: str | None,
    declared: list[str],
    found: list[str],
) -> None:
    monkeypatch.delenv("LMC_BENCHMARK", raising=False)
    if environment is not None:
        monkeypatch.setenv("LMC_BENCHMARK", environment)
    assert benchmarks_of(given, data, declared) == found


def test_a_script_for_one_benchmark_takes_one() -> None:
    with pytest.raises(UserError, match=r"--benchmark a and b: give one.*paper\.py"):
        benchmarks_of(["a", "b"], None, ())


def test_methods_narrow_every_benchmark() -> None:
    studies = {
        "rotated-digits": [Study(method="mcsgd"), Study(method="er")],
        "permuted-digits": [Study(method="er"), Study(method="ewc")],
        "split-digits": [Study(method="mcsgd")],
    }

    def chosen(*methods: str) -> dict[str, list[str]]:
        found = as_wished(studies, wishes(methods=methods))
        return {benchmark: [study.method for study in each] for benchmark, each in found.items()}

    assert chosen("er") == {"rotated-digits": ["er"], "permuted-digits": ["er"]}
    assert chosen("mcsgd", "ewc") == {
        "rotated-digits": ["mcsgd"],
        "permuted-digits": ["ewc"],
        "split-digits": ["mcsgd"],
    }
    with pytest.raises(UserError, match="unknown study 'ewd': did you mean 'ewc'"):
        chosen("er", "ewd")


def test_a_setting_goes_where_its_name_fits_on_any_benchmark() -> None:
    studies = {DIGITS[0]: [Study(method="mcsgd")], DIGITS[1]: [Study(method="stable-sgd")]}
    settings = {"line_samples": 4, "stable-sgd.dropout": 0.2, "momentum": 0.5}
    found = as_wished(studies, wishes(settings=settings))
    (first,), (second,) = found.values()
    assert first.space == {"epochs": 5, "line_samples": 4, "momentum": 0.5}
    assert second.space == {"epochs": 5, "dropout": 0.2, "momentum": 0.5}
    with pytest.raises(UserError, match="unknown hyperparameter 'lerning_rate'"):
        as_wished(studies, wishes(settings={"lerning_rate": 0.1}))


def test_batches_are_of_one_task_where_the_network_normalises_over_them() -> None:
    wanted = ["mixed", "by_task"]
    studies = [
        *(Study(method=method) for method in ("mcsgd", "er", "stable-sgd")),
        Study(method="agem", space={"replay_batches": wanted}),
    ]
    found = as_wished({"split-cifar100": studies, DIGITS[0]: studies}, wishes())
    apart, usual = ([study.space for study in each] for each in found.values())
    assert apart == [
        {"epochs": 1, "connect_batches": "by_task"},
        {"epochs": 1, "replay_batches": "by_task"},
        {"epochs": 1},
        {"epochs": 1, "replay_batches": wanted},
    ]
    assert usual == [{"epochs": 5}] * 3 + [{"epochs": 5, "replay_batches": wanted}]


def test_a_study_is_called_by_its_label_and_all_of_a_method_by_its_name() -> None:
    space = {"dropout": Range(0.0, 0.5)}
    labelled = [
        Study(method="mcsgd", label=name, space={**space, "momentum": momentum})
        for name, momentum in (("short", 0.5), ("long-0.5", 0.9))
    ]

    def found(*studies: Study, **changes: Any) -> dict[str, Any]:
        (adjusted,) = as_wished({DIGITS[0]: studies}, wishes(**changes)).values()
        return {study.name: study.space.get("line_samples") for study in adjusted}

    assert found(*labelled, methods=["long-0.5"]) == {"long-0.5": None}
    assert found(*labelled, methods=["mcsgd"]) == {"short": None, "long-0.5": None}
    assert found(Study(method="mcsgd"), *labelled, methods=["mcsgd"]) == {"mcsgd": None}
    settings = {"line_samples": 2, "long-0.5.line_samples": 3}
    assert found(*labelled, settings=settings) == {"short": 2, "long-0.5": 3}
    assert found(*labelled, settings={"mcsgd.line_samples": 4}) == {"short": 4, "long-0.5": 4}
    with pytest.raises(UserError, match="unknown study 'shrt': did you mean 'short'"):
        found(*labelled, settings={"shrt.line_samples": 3})
    with pytest.raises(UserError, match=r"ships with lmc-ray of short long-0\.5 on rotated-digits"):
        found(*labelled, confirm_only=True)


def test_a_preset_in_a_script_outweighs_the_command_lines() -> None:
    studies = [Study(method="mcsgd"), Study(method="mcsgd", label="own", preset="sequel-jax")]
    asked = wishes(preset="author", settings={"epochs": 3, "own.line_samples": 2})
    author, own = as_wished({DIGITS[0]: studies}, asked)[DIGITS[0]]
    assert author.space["path_weight"] == "cumulative"
    assert author.space["first_task_epochs"] == 6
    long = Study(method="mcsgd", preset="author", space={"epochs": 4})
    (found,) = as_wished({DIGITS[0]: [long]}, wishes())[DIGITS[0]]
    assert found.space["first_task_epochs"] == 8
    assert own.space["path_weight"] == "uniform"
    assert own.space["line_samples"] == 2
    assert "first_task_epochs" not in own.space
    several = Study(method="mcsgd", preset="author", space={"epochs": [1, 2]})
    with pytest.raises(UserError, match="twice the epochs on task 1: set epochs to one number"):
        as_wished({DIGITS[0]: [several]}, wishes())
    with pytest.raises(UserError, match="unknown preset 'autor': did you mean 'author'"):
        as_wished({DIGITS[0]: [Study(method="mcsgd", preset="autor")]}, wishes())


@pytest.mark.parametrize(
    ("benchmark", "method", "number"),
    [("rotated-mnist", "agem", 12), ("permuted-mnist", "ewc", 19)],
)
def test_the_search_that_found_what_ships_still_proposes_it(
    benchmark: str, method: str, number: int
) -> None:
    """These two were drawn knowing nothing; what is drawn depends on the order of a space, too."""
    (study,) = (each for each in PAPER["studies"](benchmark) if each.method == method)
    history = History(distributions(method, study.space), 20, ["maximize"])
    found, ships = history.propose(number, seed=0), tuned(benchmark, method)
    assert ships
    assert found == {name: ships[name] for name in found}


PRESETS_SCRIPT = runpy.run_path(str(Path(__file__).parent.parent / "sweeps" / "presets.py"))


@pytest.mark.parametrize("confirm_only", [False, True])
@pytest.mark.parametrize("benchmark", [*DECLARED, DIGITS[0]])
def test_the_script_of_presets_has_them_all(benchmark: str, confirm_only: bool) -> None:
    declared = PRESETS_SCRIPT["studies"](benchmark, None)
    assert all(study.space == declared[0].space for study in declared), "one configuration"
    assert (declared[0].space == PRESETS_SCRIPT["UNTUNED"]) == (benchmark == DIGITS[0])
    found = as_wished({benchmark: declared}, wishes(confirm_only=confirm_only))
    base, *others = found[benchmark]
    assert (base.name, base.preset) == ("mcsgd", None)
    assert hyperparameters("mcsgd", dict(base.space)).path_weight == "exact", "the formula"
    assert tuple(study.preset for study in others) == PRESETS


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ({}, {"momentum": 0.8}, False),
        ({}, {"momentum": 0.5}, True),
        ({"dropout": Range(0.0, 0.2)}, {"dropout": Range(0.2, 0.4)}, False),
        ({"dropout": Range(0.0, 0.2)}, {"dropout": Range(0.3, 0.4)}, True),
        ({"dropout": Range(0.0, 0.2)}, {"dropout": 0.3}, True),
        ({"dropout": [0.1, 0.3]}, {"dropout": Range(0.2, 0.4)}, False),
        ({"line_samples": [1, 3]}, {"line_samples": [5, 10]}, True),
        ({"line_samples": [1, 5]}, {"line_samples": Range(2, 8)}, False),
        ({"continue_from": "sequential"}, {}, True),
    ],
)
def test_studies_that_could_share_a_cell_are_refused(
    one: dict[str, Any], other: dict[str, Any], apart: bool
) -> None:
    """Its result would count for one of them only."""
    studies = [Study(method="mcsgd", space=one), Study(method="mcsgd", label="other", space=other)]
    if apart:
        as_wished({DIGITS[0]: studies}, wishes())
    else:
        with pytest.raises(UserError, match=r"MC-SGD and MC-SGD \(other\) could train"):
            as_wished({DIGITS[0]: studies}, wishes())


def test_a_labelled_study_may_start_from_what_ships(
    shipped: dict[tuple[str, str], dict[str, Any]],
) -> None:
    study = Study(method="mcsgd", label="again", tuned=True)
    (found,) = as_wished({DIGITS[0]: [study]}, wishes())[DIGITS[0]]
    assert found.space["learning_rate"] == shipped[DIGITS[0], "mcsgd"]["learning_rate"]


def test_a_networks_own_configuration_comes_before_the_usual_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual, own = {"learning_rate": 0.1, "found": "by us"}, {"learning_rate": 0.2}
    shipped = {DIGITS[0]: {"mcsgd": usual, "er": usual}, f"{DIGITS[0]} mlp-8": {"mcsgd": own}}
    monkeypatch.setattr(sys.modules[tuned.__module__], "_all", lambda: shipped)
    studies = [Study(method=name, tuned=True) for name in ("mcsgd", "er")]
    for network, rates in ((None, [0.1, 0.1]), ("mlp-8", [0.2, 0.1]), ("mlp-4", [0.1, 0.1])):
        found = as_wished({DIGITS[0]: studies}, wishes(network=network))[DIGITS[0]]
        assert [study.space["learning_rate"] for study in found] == rates
        assert all("found" not in study.space for study in found)


def test_paths_may_be_left_out_and_not_put_in() -> None:
    short = Study(method="mcsgd", label="short", space={"connect_steps": 1}, paths=False)
    for paths in (True, False):
        asked = wishes(paths=paths)
        found = as_wished({DIGITS[0]: [Study(method="mcsgd"), short]}, asked)[DIGITS[0]]
        assert [study.paths for study in found] == [paths, False]


@pytest.mark.parametrize(
    ("benchmark", "network", "apart"),
    [
        (DIGITS[0], None, False),
        (DIGITS[0], "stable-resnet-4", True),
        (DIGITS[0], "resnet18-4-bf16", True),
        ("split-cifar10", None, True),
        ("split-cifar10", "mlp-16", False),
    ],
)
def test_batches_of_one_task_where_the_network_normalises(
    benchmark: str, network: str | None, apart: bool
) -> None:
    asked = wishes(network=network)
    (found,) = as_wished({benchmark: [Study(method="mcsgd")]}, asked)[benchmark]
    assert (found.space.get("connect_batches") == "by_task") == apart


def test_a_control_does_not_search() -> None:
    """It would come to settings of its own, and be none."""
    script = runpy.run_path(str(Path(__file__).parent.parent / "sweeps" / "connectivity.py"))
    search = wishes(settings={"learning_rate": Range(0.05, 0.2)})
    with pytest.raises(UserError, match="multitask is to have the settings of mcsgd, which search"):
        as_wished({DIGITS[0]: script["STUDIES"]}, search)
    alone = as_wished({DIGITS[0]: script["STUDIES"]}, replace(search, methods=["mcsgd"]))
    assert [study.name for study in alone[DIGITS[0]]] == ["mcsgd"]


def test_a_control_has_all_settings_of_its_study() -> None:
    """Also those that are the method's own, and not the control's."""
    studies = [
        Study(method="mcsgd", space={"learning_rate": 0.1}),
        Study(method="multitask", label="other", control="mcsgd", space={"initialisation": 1}),
    ]
    found = as_wished({DIGITS[0]: studies}, wishes())[DIGITS[0]]
    one, other = (hyperparameters(study.method, fixed(study.space)) for study in found)
    shared = vars(one).keys() & vars(other).keys() - {"initialisation"}
    assert {name: vars(one)[name] for name in shared} == {n: vars(other)[n] for n in shared}


def test_a_script_starts_from_what_ships_for_the_network() -> None:
    cifar, network = "split-cifar100", "stable-resnet-20"
    own, usual = tuned(cifar, "mcsgd", network), tuned(cifar, "mcsgd")
    assert own
    assert usual
    for given, ships in ((network, own), (f"{network}-bf16", own), (None, usual)):
        found = fixed(ABLATION["studies"](cifar, given)[0].space)
        assert found == {n: v for n, v in ships.items() if n != "connect_learning_rate"} | found
        assert found["learning_rate"] == ships["learning_rate"]


@pytest.mark.parametrize(
    ("benchmark", "network", "name"),
    [
        ("split-cifar100", "stable-resnet-20", "mcsgd"),
        ("split-cifar100", None, "mcsgd"),
        ("rotated-mnist", None, "formula"),
        ("rotated-mnist", "mlp-64-64", "formula"),
    ],
)
def test_the_formula_is_set_as_it_was_tuned(benchmark: str, network: str | None, name: str) -> None:
    """Not as MC-SGD was with other weights along the path, even if that is what ships."""
    (formula, *_) = PRESETS_SCRIPT["studies"](benchmark, network)
    assert formula.space == tuned(benchmark, name, network)
    assert formula.space.get("path_weight", "exact") == "exact"


def test_memory_is_asked_for_the_largest_batch_of_any_kind() -> None:
    """The steps on J and the replay take gradients of batches of their own."""
    studies = [
        Study(method="mcsgd", space={"batch_size": 10, "connect_batch_size": [32, 256]}),
        Study(method="er", space={"batch_size": 16}),
    ]
    assert sorted(batch_sizes(studies, "batch_size")) == [10, 16]
    assert sorted(batch_sizes(studies, *BATCHES)) == [0, 10, 10, 16, 32, 256]


def test_what_ships_may_be_searched_around(
    shipped: dict[tuple[str, str], dict[str, Any]],
) -> None:
    asked = wishes(confirm_only=True, settings={"dropout": Range(0.0, 0.2)})
    (found,) = as_wished({DIGITS[0]: [Study(method="mcsgd")]}, asked)[DIGITS[0]]
    rate = shipped[DIGITS[0], "mcsgd"]["learning_rate"]
    assert found.space == {"epochs": 5, "learning_rate": rate, "dropout": Range(0.0, 0.2)}


def test_what_was_tuned_with_another_network_is_named() -> None:
    cifar = "split-cifar100"
    declared = {cifar: PAPER["studies"](cifar)}
    asked = wishes(confirm_only=True, network="stable-resnet-20")
    (line,) = borrowed(declared, asked)
    assert line == f"on {cifar} tuned with resnet18-20, not stable-resnet-20: multitask"
    assert borrowed(declared, replace(asked, methods=["mcsgd", "stable-sgd"])) == []
    assert borrowed(declared, replace(asked, confirm_only=False)) == []
    assert borrowed(declared, replace(asked, network="resnet18-20")) == []
    rounded = replace(asked, network="stable-resnet-20-bf16")
    assert borrowed(declared, rounded) == [line.replace("-20:", "-20-bf16:")]
    assert borrowed(declared, replace(asked, network="resnet18-20-bf16")) == []
    assert borrowed(declared, replace(asked, network=None)) == []


def test_what_searches_nothing_is_confirmed_as_it_stands() -> None:
    studies = PRESETS_SCRIPT["studies"](DIGITS[0], None)
    found = as_wished({DIGITS[0]: studies}, wishes(confirm_only=True))[DIGITS[0]]
    assert len(found) == len(studies)


ABLATION = runpy.run_path(str(Path(__file__).parent.parent / "sweeps" / "ablation.py"))


@pytest.mark.parametrize("benchmark", [*DECLARED, DIGITS[0]])
def test_the_ablation_changes_one_switch_at_a_time(benchmark: str) -> None:
    studies = ABLATION["studies"](benchmark, None)
    (base, *others) = as_wished({benchmark: studies}, wishes())[benchmark]
    assert base.name == "mcsgd"
    start = hyperparameters("mcsgd", fixed(base.space))
    for study in others:
        switch = study.name.rpartition("-")[0]
        changed = hyperparameters("mcsgd", fixed(study.space))
        differences = [
            name
            for name in type(start).__dataclass_fields__
            if getattr(changed, name) != getattr(start, name)
        ]
        assert differences == [switch], "or the study trains what is trained already"
        assert list(distributions("mcsgd", study.space)) == ["connect_learning_rate"]


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], dict[str, Any]]:
    """Stands in for tuned.toml."""
    found = {
        (DIGITS[0], "mcsgd"): {"learning_rate": 0.1},
        (DIGITS[0], "er"): {"learning_rate": 0.2},
        (DIGITS[1], "mcsgd"): {"learning_rate": 0.3},
    }
    monkeypatch.setattr(
        "lmc_ray.sweep.wishes.tuned",
        lambda benchmark, method, network: found.get((benchmark, method)),
    )
    return found


SEARCHED = [
    Study(method="naive-sgd", pinned=True),
    *(Study(method=name, space={"dropout": Range(0.0, 0.5)}) for name in ("er", "ewc", "mcsgd")),
    Study(method="multitask", control="mcsgd", space={"initialisation": 1}),
]


def test_what_ships_is_confirmed_benchmark_by_benchmark(
    shipped: dict[tuple[str, str], dict[str, Any]],
) -> None:
    only = wishes(confirm_only=True, methods=["naive-sgd", "mcsgd", "multitask"])
    found = as_wished(dict.fromkeys(DIGITS, SEARCHED), only)
    for benchmark in DIGITS:
        naive, mcsgd, multitask = found[benchmark]
        rate = shipped[benchmark, "mcsgd"]["learning_rate"]
        assert naive.space == {"epochs": 5}, "a pinned study has its own settings"
        assert mcsgd.space == {"epochs": 5, "learning_rate": rate}
        own = {"dropout": 0.2, "lr_decay": 0.8}  # the paper's for MC-SGD, and not its defaults
        control = {"epochs": 5, "learning_rate": rate, "initialisation": 1} | own
        assert multitask.space == control, "a control has those of the study beside it"


@pytest.mark.usefixtures("shipped")
def test_all_that_does_not_ship_is_named_in_one_line() -> None:
    with pytest.raises(UserError) as told:
        as_wished(dict.fromkeys(DIGITS, SEARCHED), wishes(confirm_only=True))
    assert str(told.value) == (
        "no tuned configuration ships with lmc-ray of ewc on rotated-digits, er ewc on"
        " permuted-digits: leave --confirm-only out, or choose with --method and --benchmark"
    )


@pytest.mark.parametrize("benchmark", ["rotated-mnist", "permuted-mnist"])
def test_whole_columns_of_table_1_ship(benchmark: str) -> None:
    """So --confirm-only trains them; each configuration is one that its method takes."""
    studies = PAPER["studies"](benchmark)
    for study in as_wished({benchmark: studies}, wishes(confirm_only=True))[benchmark]:
        chosen = hyperparameters(study.method, dict(study.space))
        assert getattr(chosen, "memory_per_class", 1) == 1, "the paper's"
        assert not any(isinstance(value, Range | list) for value in study.space.values())


# Table 1


@pytest.mark.parametrize("benchmark", DECLARED)
def test_the_papers_script_has_the_papers_table(benchmark: str) -> None:
    studies = PAPER["studies"](benchmark)
    check_studies(studies)
    assert {study.method for study in studies} == set(TABLE_1[benchmark])
    assert set(DECLARED) == set(TABLE_1)
    searched = [study for study in studies if not study.pinned]
    assert {"dropout" in study.space for study in searched} == {benchmark != "split-cifar100"}
