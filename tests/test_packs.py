"""Packs: which blocks share a stack, as laws."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import PLACE

from lmc_ray.learners import METHODS, hyperparameters
from lmc_ray.learners.hyperparameters import numeric_fields
from lmc_ray.sweep.cells import Block, Cell, Pack
from lmc_ray.sweep.packs import Packing, shape


def cell(method: str = "mcsgd", seed: int = 0, **values: Any) -> Cell:
    chosen = hyperparameters(method, values)
    return Cell(method=method, place=PLACE, hyperparameters=chosen, seed=seed, purpose="search")


def block(method: str, rate: float, size: int, seeds: int) -> Block:
    values = {"learning_rate": rate, "batch_size": size}
    cells = tuple(cell(method, seed, **values) for seed in range(seeds))
    return Block(study=method, trial=0, cells=cells)


blocks = st.builds(
    block,
    st.sampled_from(["mcsgd", "stable-sgd"]),
    st.floats(0.01, 1),
    st.sampled_from([16, 32]),
    st.integers(1, 4),
)
ready = st.lists(blocks, min_size=1, max_size=12)


def drained(packing: Packing, blocks: list[Block], running: int = 0) -> list[list[int]]:
    """The places of the blocks of all packs, one after the other; each keeps a worker busy."""
    packs, left = [], list(range(len(blocks)))
    while left:
        chosen = packing.choose([blocks[place] for place in left], running + len(packs))
        packs.append([left[each] for each in chosen])
        left = [place for place in left if place not in packs[-1]]
    return packs


@given(ready, st.integers(1, 12), st.integers(1, 5), st.integers(0, 6))
def test_every_block_goes_once_with_its_like_and_within_the_bound(
    blocks: list[Block], replicas: int, workers: int, running: int
) -> None:
    packs = drained(Packing(replicas, workers), blocks, running)
    assert sorted(place for pack in packs for place in pack) == list(range(len(blocks)))
    for pack in packs:
        assert pack == sorted(pack), "the order of preference is lost"
        cells = [each for place in pack for each in blocks[place].cells]
        assert len(pack) == 1 or len(cells) <= replicas
        assert all(shape(each) == shape(cells[0]) for each in cells)


@given(ready, st.integers(1, 12))
def test_one_worker_gets_all_that_fits(blocks: list[Block], replicas: int) -> None:
    chosen = Packing(replicas).choose(blocks, 0)
    assert chosen[0] == 0, "the first in order of preference waits"
    free = replicas - sum(len(blocks[place].cells) for place in chosen)
    for place, each in enumerate(blocks):
        same = shape(each.cells[0]) == shape(blocks[0].cells[0])
        assert place in chosen or not same or len(each.cells) > free


@given(ready, st.integers(1, 12), st.integers(1, 8), st.integers(0, 8))
def test_no_worker_is_left_idle_for_the_sake_of_a_larger_stack(
    blocks: list[Block], replicas: int, workers: int, running: int
) -> None:
    idle = max(0, workers - running)
    assert len(drained(Packing(replicas, workers), blocks, running)) >= min(idle, len(blocks))


def test_a_generation_is_one_stack_where_the_bound_allows_it() -> None:
    blocks = [block("mcsgd", 0.01 * n, 16, 2) for n in range(1, 21)]
    assert drained(Packing(64), blocks) == [list(range(20))]
    assert drained(Packing(8), blocks) == [list(range(n, n + 4)) for n in range(0, 20, 4)]
    assert drained(Packing(1), blocks) == [[n] for n in range(20)]


def test_a_night_keeps_its_stacks() -> None:
    """What differs from night to night in the last bit would look like a change of the code."""
    one = cell()
    night = replace(one, purpose="nightly", night="2026-11-26", version="1")
    blocks = [
        Block(study="mcsgd", trial=None, cells=(replace(night, seed=seed),)) for seed in range(3)
    ]
    assert drained(Packing(64), blocks) == [[0], [1], [2]]


@pytest.mark.parametrize("method", METHODS)
def test_a_shape_is_what_replicas_of_a_stack_must_share(method: str) -> None:
    usual = cell(method)
    numeric = numeric_fields(type(usual.hyperparameters))
    other = dict.fromkeys(numeric, 0.25)
    assert shape(cell(method, 7, **other)) == shape(usual)
    for each in fields(usual.hyperparameters):
        if each.name not in numeric:
            value = not each.default if isinstance(each.default, bool) else 3
            if isinstance(each.default, str):
                value = "other"
            changed = replace(usual.hyperparameters)
            object.__setattr__(changed, each.name, value)
            assert shape(replace(usual, hyperparameters=changed)) != shape(usual), each.name


@pytest.mark.parametrize(
    "change",
    [
        {"method": "er-mcsgd"},
        {"place": replace(PLACE, network="mlp-4")},
        {"purpose": "confirm"},
        {"purpose": "control"},
        {"path_points": 5},
        {"keep_minima": (1,)},
    ],
)
def test_what_is_measured_is_part_of_the_shape(change: dict[str, Any]) -> None:
    assert shape(replace(cell(), **change)) != shape(cell())


def test_a_pack_knows_the_places_of_its_blocks() -> None:
    one, two = block("mcsgd", 0.1, 16, 3), block("mcsgd", 0.2, 16, 2)
    pack = Pack((one, two))
    assert pack.cells == [*one.cells, *two.cells]
    assert pack.places == [(one, range(3)), (two, range(3, 5))]
