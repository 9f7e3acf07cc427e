"""Methods of one's own: registered in a script, trained as they are, stored and shown like ours."""

import runpy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small import setting, values
from test_trainable import CHANCES, block, place, run

from lmc_ray.errors import UserError
from lmc_ray.learners import METHODS, hyperparameters, own_methods, register
from lmc_ray.learners.descent import Theta
from lmc_ray.learners.hyperparameters import SGD, count
from lmc_ray.learners.mcsgd import ModeConnectivitySGD
from lmc_ray.learners.sgd import SequentialSGD
from lmc_ray.store import Store
from lmc_ray.sweep import Study
from lmc_ray.sweep.declared import check_studies
from lmc_ray.sweep.trainable import stored_outcomes
from lmc_ray.tables import accuracy_rows, accuracy_sheets, compare, render
from lmc_ray.training import Measurement, Training

__all__ = ["place"]  # a fixture

SCRIPT = Path(__file__).parent.parent / "sweeps" / "own.py"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test registers is unknown to the next; so is what scripts of other tests have."""
    for name in own_methods():
        del METHODS[name]
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.fixture
def l2() -> str:
    """The method of `sweeps/own.py`."""
    runpy.run_path(str(SCRIPT))
    return "l2"


def trained(method: str, points: int = 0, **changes: Any) -> Training:
    measurement = Measurement("test", 20, path_points=points)
    small = {"batch_size": 16} | changes
    configurations = [hyperparameters(method, small)] * 2
    training = Training(setting(part="full"), method, configurations, [0, 1], measurement)
    while not training.finished:
        training.step()
    return training


def test_the_example_is_sgd_with_a_pull(l2: str) -> None:
    assert set(own_methods()) == {l2}
    free = trained(l2, l2_strength=0.0).learner.tensors["sequential"]
    plain = trained("stable-sgd", dropout=0, lr_decay=1).learner.tensors["sequential"]
    assert torch.equal(free, plain)
    start = setting(part="full").initial([0, 1])
    held = trained(l2, l2_strength=5.0).learner.tensors["sequential"]
    assert (held - start).norm() < 0.8 * (free - start).norm()


class Nowhere(ModeConnectivitySGD):
    """A variant whose steps on J come to nothing."""

    def _connect(self, connected: Theta, sequential: Theta, task: int) -> Theta:
        return torch.zeros_like(connected)


def test_a_variant_of_mcsgd_is_confirmed_as_itself() -> None:
    """Also with the companions that its paths need."""
    register("nowhere", Nowhere, METHODS["mcsgd"].hyperparameters)
    small = vars(values("mcsgd", epochs=20, dropout=0.0))
    plain = trained("mcsgd", **small)
    plain = min(plain.accuracy(record) for record in plain.records)
    for points in (0, 5):
        found = trained("nowhere", points, **small)
        for record in found.records:
            assert found.accuracy(record) < 0.3 < plain
            assert bool(record.paths) == bool(points)
            kinds = {row["minimum"] for row in record.accuracies}
            assert ("multitask" in kinds) == bool(points)


class Elsewhere(SequentialSGD):
    """Its minimum has a name that is not SGD's."""

    minimum = "averaged"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tensors["averaged"] = self.tensors["sequential"]

    def learn(self, task: int) -> None:
        """As SGD."""
        super().learn(task)
        self.tensors["averaged"] = self.tensors["sequential"]

    def minima(self, task: int) -> dict[str, Theta]:
        """Under its own name alone."""
        return {"averaged": self.tensors["averaged"]}


def test_stored_and_shown_like_ours(tmp_path: Path, place: Any, l2: str) -> None:
    """Two configurations that differ in nothing that has a column, and a minimum of its own."""
    register("elsewhere", Elsewhere)
    for strength in (0.5, 5.0):
        run(tmp_path, block(place, l2, *[{"l2_strength": strength}] * 3, confirm=True))
    run(tmp_path, block(place, "elsewhere", *[{}] * 3, confirm=True))
    _, outcomes = run(tmp_path, block(place, "naive-sgd", *[{}] * 3, confirm=True))
    METHODS.pop("l2")
    METHODS.pop("elsewhere")  # whoever reads need not know them
    store = Store(str(tmp_path))
    with store.database() as database:
        text = render(accuracy_sheets(database))
        (rows,) = accuracy_rows(database)
        found = compare(database, l2, ["naive-sgd"]).comparisons
        sql = "SELECT DISTINCT (own_hyperparameters ->> 'l2_strength')::DOUBLE FROM runs ORDER BY 1"
        strengths = database.execute(sql).fetchall()
    assert strengths == [(0.5,), (5.0,), (None,)]
    assert [row.group.label for row in rows] == ["naive SGD", "elsewhere", "l2 1", "l2 2"]
    assert all(row.rise for row in rows), "of each one's own line"
    assert 'own_hyperparameters {"l2_strength": 5.0}' in text
    assert len(found) == 2
    again = stored_outcomes(store, "sweep", CHANCES)
    assert len(again) == 12
    assert outcomes.items() <= again.items()
    assert min(outcome.value for outcome in again.values()) > 0


@dataclass(frozen=True, kw_only=True)
class Plain(SGD):
    """Fields without ranges of their own."""

    pull: float = 0.1
    where: str = "here"
    rounds: int = count(2, 1)


def test_fields_without_a_range() -> None:
    register("plain", SequentialSGD, Plain, {"momentum": 0.5})
    assert hyperparameters("plain", {"pull": -3}).momentum == 0.5
    for bad in ({"pull": "x"}, {"pull": float("nan")}, {"where": 3}, {"rounds": 0}):
        with pytest.raises(UserError, match=next(iter(bad))):
            hyperparameters("plain", bad)


@dataclass(frozen=True, kw_only=True)
class Clash(SGD):
    """With the name of a column that says something else."""

    status: float = 0.1


def test_what_cannot_be_stored_is_refused_at_the_start() -> None:
    register("clash", SequentialSGD, Clash)
    with pytest.raises(UserError, match="clash has a hyperparameter status"):
        check_studies([Study(method="clash")])


@pytest.mark.parametrize("name", ["mcsgd", "naive-sgd", "", "a b", "../l2", "1"])
def test_names_that_are_taken_or_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="choose a name"):
        register(name, SequentialSGD)
    assert not own_methods()
