"""Episodic memories: what is drawn, for whom, and how it is kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import benchmark

from lmc_ray.benchmarks import Examples
from lmc_ray.errors import UserError
from lmc_ray.memory import Memory, draw


def examples(labels: list[int]) -> Examples:
    """Examples whose pixels tell their row."""
    rows = torch.arange(len(labels), dtype=torch.uint8)
    return Examples(rows[:, None, None, None].expand(-1, 1, 2, 2), torch.tensor(labels))


@given(
    sizes=st.lists(st.integers(3, 9), min_size=1, max_size=4),
    per_class=st.integers(1, 3),
    seeds=st.lists(st.integers(0, 1000), min_size=1, max_size=3),
)
@settings(max_examples=50, deadline=None)
def test_balanced_keeps_so_many_of_every_class(
    sizes: list[int], per_class: int, seeds: list[int]
) -> None:
    labels = [2 * c for c, size in enumerate(sizes) for _ in range(size)]
    drawn = draw(examples(labels), seeds, 1, per_class, "balanced")
    assert drawn.shape == (len(seeds), per_class * len(sizes))
    for row in drawn.tolist():
        assert len(set(row)) == len(row)  # without replacement
        kept = [labels[i] for i in row]
        assert kept == [2 * c for c in range(len(sizes)) for _ in range(per_class)]


def test_balanced_draws_every_example_sooner_or_later() -> None:
    labels = [0, 1] * 4
    seeds = list(range(60))
    drawn = draw(examples(labels), seeds, 1, 1, "balanced")
    assert set(drawn.flatten().tolist()) == set(range(8))


def test_random_ignores_classes_and_draws_with_replacement() -> None:
    labels = [0] * 2 + [1] * 18
    drawn = draw(examples(labels), list(range(200)), 1, 10, "random")
    assert drawn.shape == (200, 20)  # as many as a balanced memory would hold
    assert any(len(set(row)) < 20 for row in drawn.tolist())
    # Twenty draws a seed, each of class 0 with probability 0.1: 400 ± 19 of 4,000.
    assert 320 < int((drawn < 2).sum()) < 480
    counts = drawn.flatten().bincount(minlength=20)
    assert counts.min() > 130  # 200 ± 14 each: none is left out
    assert counts.max() < 270


@pytest.mark.parametrize("how", ["balanced", "random"])
def test_a_seed_draws_the_same_alone_and_in_a_stack(how: str) -> None:
    some = benchmark().examples(2, "train")
    stack = draw(some, list(range(8)), 2, 2, how)
    assert torch.equal(draw(some, [3], 2, 2, how)[0], stack[3])
    assert len({tuple(row) for row in stack.tolist()}) == 8
    assert not torch.equal(draw(some, [3], 1, 2, how)[0], stack[3])  # another task, another draw


def test_a_class_too_small_for_the_memory_is_the_users_mistake() -> None:
    labels = [0] * 5 + [1] * 2
    with pytest.raises(UserError, match=r"memory_per_class=3 .* task 4 has: 2 training") as caught:
        draw(examples(labels), [0], 4, 3, "balanced")
    assert "\n" not in str(caught.value)
    assert draw(examples(labels), [0], 4, 3, "random").shape == (1, 6)


def test_the_memory_grows_task_by_task() -> None:
    few, seeds = benchmark(), [4, 5]
    memory = Memory.empty(2, few.image_shape, torch.device("cpu"))
    assert memory.size == 0
    drawn = {}
    for task in (1, 2):
        some = few.examples(task, "train")
        drawn[task] = draw(some, seeds, task, 1, "balanced")
        memory = memory.with_task(some, drawn[task], task)
    assert memory.size == 20
    assert memory.remembered_tasks.tolist() == [[1] * 10 + [2] * 10] * 2
    assert memory.remembered_labels.tolist() == [list(range(10)) * 2] * 2
    for replica in range(2):
        for task in (1, 2):
            kept = memory.remembered_images[replica, 10 * task - 10 : 10 * task]
            expected = few.examples(task, "train").images[drawn[task][replica]]
            assert torch.equal(kept, expected)
