"""Whether every node sees the results root, asked of a made-up cluster."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import TaskUnschedulableError

from lmc_ray.errors import UserError
from lmc_ray.sweep.cluster import check_shared


def cluster(monkeypatch: pytest.MonkeyPatch, sees: Mapping[str, bool | None]) -> None:
    """Nodes that see a file, do not, or (None) have gone without Ray's knowing yet."""

    def answer(node: str) -> bool:
        seen = sees[node]
        if seen is None:
            raise TaskUnschedulableError("the node does not exist any more")
        return seen

    def options(scheduling_strategy: Any) -> Any:
        return SimpleNamespace(remote=lambda path: scheduling_strategy.node_id)

    nodes = [{"NodeID": each, "NodeManagerAddress": each, "Alive": True} for each in sees]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "remote", lambda **_: lambda _: SimpleNamespace(options=options))
    monkeypatch.setattr(ray, "get", answer)


ONE, TWO, THREE = (letter * 56 for letter in "abc")


def test_a_node_that_does_not_see_the_root_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster(monkeypatch, {ONE: True, TWO: False})
    with pytest.raises(UserError, match=f"node {TWO} does not see the results root"):
        check_shared(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_has_gone_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster(monkeypatch, {ONE: True, TWO: None, THREE: True})
    check_shared(str(tmp_path))
