"""Cells: an identity that never changes, and that nothing but the specification decides."""

import json
import math
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmc_ray.learners import METHODS, hyperparameters
from lmc_ray.learners.hyperparameters import SGD
from lmc_ray.sweep.cells import Block, Cell, Place, outcome

PLACE = Place(
    benchmark="rotated-mnist",
    tasks=20,
    angle=9.0,
    classes_per_task=None,
    fingerprint="5f" * 32,
    network="mlp-256-256",
)

SGD_VALUES: dict[str, Any] = {
    "learning_rate": 0.1,
    "lr_decay": 0.8,
    "lr_floor": 5e-4,
    "momentum": 0.8,
    "dropout": 0.25,
    "batch_size": 10,
    "epochs": 1,
    "first_task_epochs": None,
    "shuffle": True,
}
MULTITASK_VALUES = {"multitask_schedule": "growing", "examples_per_task": 20_000}
MCSGD_VALUES = {
    "memory_per_class": 1,
    "memory_draw": "balanced",
    "memory_includes_current": False,
    "connect_learning_rate": 0.05,
    "connect_momentum": 0.8,
    "connect_steps": 50,
    "connect_schedule": "joint",
    "connect_batches": "mixed",
    "connect_batch_size": 64,
    "connect_examples": 2_000,
    "line_samples": 5,
    "init_position": 0.5,
    "path_weight": "exact",
    "path_reduction": "mean",
    "examples_per_task": 20_000,
    "path_sampling": "grid",
    "path_dropout": False,
    "continue_from": "connected",
    "loss_scale": "mean",
}
REPLAYING_VALUES = {"memory_per_class": 1, "replay_batch_size": 10, "replay_memory": "reservoir"}
EWC_VALUES = {
    "ewc_strength": 10.0,
    "ewc_penalty": "per_task",
    "ewc_decay": 1.0,
    "fisher_examples": 200,
    "fisher_labels": "sampled",
}

# Results that people have stored hang on these. If one changes, cells are lost: mark the field
# that you have added as `later` instead, with the old behaviour as its default.
FROZEN = [
    ("naive-sgd", {}, "search", 0, "bb4282837d83a55fdba5fd2d64ce55ab"),
    ("stable-sgd", {}, "search", 0, "67484a6b0a48718ef9dd6e434730d8a6"),
    ("stable-sgd", {}, "confirm", 21, "92f832a1e02268fa8061f08aa744b20b"),
    ("multitask", MULTITASK_VALUES, "search", 0, "332c120404b59a04d75222658b82932c"),
    ("mcsgd", MCSGD_VALUES, "search", 0, "153fa9fa57e80b0128f268e53fda5edb"),
    ("mcsgd", MCSGD_VALUES, "confirm", 21, "a5196ca82a9587a82c4f626208fa6412"),
    ("er", REPLAYING_VALUES, "search", 0, "c3f433ad1971aaa4b5d5505e02727ffa"),
    (
        "agem",
        REPLAYING_VALUES | {"replay_memory": "ring"},
        "search",
        0,
        "6945c40fc95820151ac4850276ead7cd",
    ),
    ("ewc", EWC_VALUES, "search", 0, "c670fe0bf10bd19ce8d6ac7fe7d55c78"),
    (
        "er-mcsgd",
        MCSGD_VALUES | {"replay_batch_size": 10},
        "search",
        0,
        "2753046fe665f1e091792dea4de20824",
    ),
    (
        "weight-averaging",
        {"average_position": 0.5},
        "search",
        0,
        "431fafbbe399da7a99f92939d90a8e96",
    ),
    ("ema", {"ema_decay": 0.999}, "search", 0, "3e8df4950e82427524ae2d26ce6624cd"),
]
LATER = {"initialisation": 0, "replay_batch_size": 0, "replay_batches": "mixed"}
"""Options that were added when cells had been stored, and what those had done without them."""


def cell(method: str = "mcsgd", **changes: Any) -> Cell:
    values = changes.pop("values", {})
    same = {"place": PLACE, "seed": 0, "purpose": "search"}
    return Cell(method=method, hyperparameters=hyperparameters(method, values), **(same | changes))


def is_later(hyperparameter: Field[Any]) -> bool:
    return bool(hyperparameter.metadata.get("later"))


@pytest.mark.parametrize(("method", "values", "purpose", "points", "expected"), FROZEN)
def test_frozen_ids(
    method: str,
    values: dict[str, Any],
    purpose: Literal["search", "confirm"],
    points: int,
    expected: str,
) -> None:
    each = cell(method, values=SGD_VALUES | values, seed=3, purpose=purpose, path_points=points)
    assert each.id == expected


def test_frozen_id_of_a_split_benchmark_in_double_precision() -> None:
    place = Place(
        benchmark="split-cifar100",
        tasks=20,
        angle=None,
        classes_per_task=5,
        fingerprint="07" * 32,
        network="resnet18-20",
        dtype="float64",
        evaluation_group=250,
    )
    each = cell("stable-sgd", values=SGD_VALUES, place=place, seed=10_000)
    assert each.id == "a6a4f4f762fb3a07d0771678dda54a91"


def test_the_frozen_specifications_are_whole() -> None:
    """An option that a frozen specification leaves out would not be guarded by it."""
    for method, values, *_ in FROZEN:
        later = {each.name for each in fields(METHODS[method].hyperparameters) if is_later(each)}
        known = set(METHODS[method].hyperparameters.__dataclass_fields__)
        assert set(SGD_VALUES | values) - later == known - later
    assert {method for method, *_ in FROZEN} == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_an_option_left_out_of_an_id_is_what_cells_did_without_it(method: str) -> None:
    kind = METHODS[method].hyperparameters
    later = {each.name: each.default for each in fields(kind) if is_later(each)}
    assert later == {name: value for name, value in LATER.items() if name in later}


def test_id_is_the_hash_of_canonical_json() -> None:
    each = cell(seed=7)
    assert json.loads(each.config) == each.specification
    assert each.config == json.dumps(each.specification, sort_keys=True, separators=(",", ":"))
    assert len(each.id) == 32
    assert int(each.id, 16) >= 0
    assert each.specification["split"] == "validation"
    assert cell(purpose="confirm").specification["split"] == "test"


def test_identity_knows_no_device_stack_or_block() -> None:
    """Where a cell runs, and with whom, is not what it is."""
    ids = [cell(seed=seed).id for seed in range(4)]
    together = Block(study="mcsgd", trial=3, cells=tuple(cell(seed=seed) for seed in range(4)))
    alone = [
        Block(study="other", trial=None, cells=(cell(seed=seed),), prune_below=(0.5,))
        for seed in range(4)
    ]
    assert [each.id for each in together.cells] == ids
    assert [block.cells[0].id for block in alone] == ids
    words = {"device", "stack", "replicas", "host", "threads", "study", "trial", "sweep"}
    assert not words & set(cell().specification)


NUMERIC = [
    (method, each.name)
    for method, kind in METHODS.items()
    for each in fields(kind.hyperparameters)
    if each.metadata.get("numeric") and not each.metadata.get("open_high")
]


@pytest.mark.parametrize(("method", "name"), NUMERIC)
def test_whole_numbers_and_floats_hash_alike(method: str, name: str) -> None:
    assert cell(method, values={name: 1}).id == cell(method, values={name: 1.0}).id


def test_zero_hashes_alike_too() -> None:
    assert cell(values={"dropout": 0}).id == cell(values={"dropout": 0.0}).id
    assert cell(values={"lr_floor": 0}).id == cell(values={"lr_floor": 0.0}).id


def _values(kind: type[SGD], name: str) -> st.SearchStrategy[Any]:
    """Values that a hyperparameter may have."""
    each = kind.__dataclass_fields__[name]
    hint = get_type_hints(kind)[name]
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if hint is bool:
        return st.booleans()
    low, high = each.metadata["range"]
    if each.metadata.get("numeric"):
        return st.floats(
            low,
            min(high, 1e6),
            exclude_min=bool(each.metadata.get("open_low")),
            exclude_max=bool(each.metadata.get("open_high")),
        ).map(lambda value: value + 0.0)  # no minus zero
    whole = st.integers(low, 10_000)
    return st.none() | whole if each.default is None else whole


HYPERPARAMETERS = [
    (method, name)
    for method, kind in METHODS.items()
    for name in kind.hyperparameters.__dataclass_fields__
]


@pytest.mark.parametrize(("method", "name"), HYPERPARAMETERS)
@given(data=st.data())
def test_every_hyperparameter_changes_the_id(method: str, name: str, data: st.DataObject) -> None:
    strategy = _values(METHODS[method].hyperparameters, name)
    one, other = data.draw(strategy), data.draw(strategy)
    equal = cell(method, values={name: one}).id == cell(method, values={name: other}).id
    assert equal == (one == other)


@given(st.floats(0.001, 1))
def test_floats_are_exact(rate: float) -> None:
    near = math.nextafter(rate, 2)
    assert cell(values={"learning_rate": rate}).id != cell(values={"learning_rate": near}).id


PLACES: dict[str, Any] = {
    "benchmark": "rotated-fashion-mnist",
    "tasks": 19,
    "angle": 9.5,
    "classes_per_task": 5,
    "fingerprint": "60" * 32,
    "network": "mlp-100-100",
    "dtype": "float64",
    "evaluation_group": 499,
}


def test_every_field_of_the_place_changes_the_id() -> None:
    assert set(PLACES) == {each.name for each in fields(Place)}
    ids = {cell(place=replace(PLACE, **{name: value})).id for name, value in PLACES.items()}
    assert len(ids | {cell().id}) == len(PLACES) + 1


def test_seed_purpose_method_and_paths_change_the_id() -> None:
    others = [
        cell(),
        cell(seed=1),
        cell(seed=10_000),
        cell(purpose="confirm"),
        cell(purpose="confirm", path_points=21),
        cell(purpose="confirm", path_points=41),
        cell("stable-sgd"),
        cell("naive-sgd", values=METHODS["stable-sgd"].settings),  # equal but for the name
        cell("multitask"),
    ]
    assert len({each.id for each in others}) == len(others)


def test_the_protocol_changes_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cell().id
    monkeypatch.setattr("lmc_ray.sweep.cells.PROTOCOL", 2)
    assert cell().id != before


@dataclass(frozen=True, kw_only=True)
class Longer(SGD):
    """SGD as it might look with options that came later."""

    weight_decay: float = field(
        default=0.0, metadata={"numeric": True, "range": (0, 1), "later": True}
    )
    warm_up: int | None = field(default=None, metadata={"range": (1, 100), "later": True})


@given(rate=st.floats(0.001, 1), decay=st.floats(1e-6, 1), steps=st.integers(1, 100))
def test_an_option_added_later_leaves_old_ids(rate: float, decay: float, steps: int) -> None:
    old = Cell(
        method="stable-sgd",
        place=PLACE,
        hyperparameters=SGD(learning_rate=rate),
        seed=0,
        purpose="search",
    )
    new = replace(old, hyperparameters=Longer(learning_rate=rate))
    assert new.id == old.id
    used = [
        Longer(learning_rate=rate, weight_decay=decay),
        Longer(learning_rate=rate, warm_up=steps),
        Longer(learning_rate=rate, weight_decay=decay, warm_up=steps),
    ]
    ids = {replace(old, hyperparameters=each).id for each in used}
    assert len(ids | {old.id}) == 4
    # The default written as a whole number is the default.
    assert replace(old, hyperparameters=Longer(learning_rate=rate, weight_decay=0)).id == old.id


def test_an_option_that_is_not_marked_as_later_changes_ids() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Changed(SGD):
        weight_decay: float = field(default=0.0, metadata={"numeric": True, "range": (0, 1)})

    changed = replace(cell("stable-sgd"), hyperparameters=Changed(**SGD_VALUES))
    assert changed.id != cell("stable-sgd", values=SGD_VALUES).id


def test_outcome_of_each_end() -> None:
    assert outcome("finished", (0.5, 0.75), 0.1).value == 0.75
    assert outcome("pruned", (0.5,), 0.1).value == 0.5
    assert outcome("diverged", (0.5, 0.75), 0.1).value == 0.1
    assert outcome("diverged", (), 0.1).value == 0.1
    assert outcome("diverged", (0.5,), 0.1).curve == (0.5,)
