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
together = st.lists(blocks, max_size=12)


def sizes(packs: list[list[Block]]) -> list[int]:
    return [sum(len(each.cells) for each in pack) for pack in packs]


@given(together, st.integers(1, 12), st.integers(1, 5))
def test_every_block_goes_once_with_its_like_and_within_the_bound(
    blocks: list[Block], replicas: int, workers: int
) -> None:
    packs = Packing(replicas, workers).packs(blocks)
    places = {id(block): place for place, block in enumerate(blocks)}
    order = [[places[id(block)] for block in pack] for pack in packs]
    assert sorted(place for pack in order for place in pack) == list(range(len(blocks)))
    assert all(pack == sorted(pack) for pack in order), "the order of preference is lost"
    assert [pack[0] for pack in order] == sorted(pack[0] for pack in order)
    for pack, size in zip(packs, sizes(packs), strict=True):
        assert len(pack) == 1 or size <= replicas
        shapes = [shape(each) for block in pack for each in block.cells]
        assert all(each == shapes[0] for each in shapes)


@given(together, st.integers(1, 12))
def test_for_one_worker_no_stack_is_smaller_than_it_must_be(
    blocks: list[Block], replicas: int
) -> None:
    packs = Packing(replicas).packs(blocks)
    for place, pack in enumerate(packs):
        for later in packs[place + 1 :]:
            same = shape(pack[0].cells[0]) == shape(later[0].cells[0])
            free = replicas - sizes([pack])[0]
            assert not same or all(len(block.cells) > free for block in later)


@given(together, st.integers(1, 12), st.integers(1, 8))
def test_no_pack_is_larger_than_a_workers_share(
    blocks: list[Block], replicas: int, workers: int
) -> None:
    packs = Packing(replicas, workers).packs(blocks)
    assert all(len(pack) <= -(-len(blocks) // workers) for pack in packs)


def test_a_generation_is_one_stack_where_the_bound_allows_it() -> None:
    blocks = [block("mcsgd", 0.01 * n, 16, 2) for n in range(1, 21)]
    assert sizes(Packing(64).packs(blocks)) == [40]
    assert sizes(Packing(8).packs(blocks)) == [8] * 5
    assert sizes(Packing(64, 3).packs(blocks)) == [14, 14, 12]
    assert sizes(Packing(1).packs(blocks)) == [2] * 20
    assert Packing(64).packs([]) == []


def test_a_night_keeps_its_stacks() -> None:
    """What differs from night to night in the last bit would look like a change of the code."""
    one = cell()
    night = replace(one, purpose="nightly", night="2026-11-26", version="1")
    blocks = [
        Block(study="mcsgd", trial=None, cells=(replace(night, seed=seed),)) for seed in range(3)
    ]
    assert Packing(64).packs(blocks) == [[each] for each in blocks]


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


def test_a_control_shares_no_stack_with_a_result() -> None:
    one = replace(cell(), purpose="confirm")
    assert shape(replace(one, purpose="control")) != shape(one)


def test_a_pack_knows_the_places_of_its_blocks() -> None:
    one, two = block("mcsgd", 0.1, 16, 3), block("mcsgd", 0.2, 16, 2)
    pack = Pack((one, two))
    assert pack.cells == [*one.cells, *two.cells]
    assert pack.places == [(one, range(3)), (two, range(3, 5))]
