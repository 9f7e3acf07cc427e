"""What is measured at and between kept minima, as rows of the store's tables. Knows nothing of Ray.

Each function takes the minima as flat weights and gives rows by table; the columns of the cell that
measured them are the caller's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lmc_ray.benchmarks import Examples
from lmc_ray.connectivity.alignment import align
from lmc_ray.connectivity.bezier import bezier_path, fit_control
from lmc_ray.connectivity.curvature import hessian_product, overlaps, top_eigenpairs
from lmc_ray.connectivity.paths import Curve, barriers, linear_path, stays_low
from lmc_ray.connectivity.planes import axes, measure_plane
from lmc_ray.connectivity.similarity import activation_cka, cosines, distances
from lmc_ray.learners import Setting
from lmc_ray.randomness import permutations, stream

Row = dict[str, Any]
Theta = Float[Tensor, " parameters"]
Control = Literal["same-init", "other-init", "other-seed", "aligned"]


@dataclass(frozen=True)
class End:
    """A kept minimum: whose it is, its name and the last task that it had learned (1-based)."""

    cell_id: str
    seed: int
    minimum: str
    task: int

    def __str__(self) -> str:
        """As in path and plane ids."""
        return f"{self.minimum}:{self.task}"


@dataclass(frozen=True)
class Place:
    """Where it is measured: network, benchmark and device, the split, images a forward pass."""

    setting: Setting
    split: Literal["validation", "test"]
    group: int

    def examples(self, task: int, count: int | None = None) -> Examples:
        """The first `count` examples of a task, in the benchmark's fixed order; None: all."""
        every = self.setting.examples(task, self.split)
        return Examples(every.images[:count], every.labels[:count])


@dataclass(frozen=True)
class Bend:
    """How the control point of a curved path is trained (see `connectivity.bezier`)."""

    steps: int = 200
    learning_rate: float = 0.02
    batch_size: int = 128


def path_rows(
    place: Place,
    ends: tuple[End, End],
    weights: tuple[Theta, Theta],
    control: Control,
    eval_tasks: Sequence[int],
    points: int,
    bend: Bend | None,
) -> dict[str, list[Row]]:
    """The line between two minima on each task, and a curve where the line is worse than both ends.

    That is where the error in between is two points or more above both ends'. The curve (quadratic
    Bézier) is trained on the task's training examples. A line that climbs to a bad end is not bent:
    no curve makes an end better. On a task that the start was not trained on there is no rise: that
    accuracy is kept would say nothing.
    """
    rows: dict[str, list[Row]] = {"paths": [], "barriers": []}
    pair = _pair(ends, control)
    start, end = (theta[None] for theta in weights)
    for task in eval_tasks:
        examples, allowed = place.examples(task), place.setting.allowed(task)
        measured = points, examples, allowed, place.group
        line = linear_path(place.setting.network, start, end, *measured)
        curves = {"linear": line}
        if bend is not None and _above_both_ends(line):
            trained_on = place.setting.examples(task)
            fitted = fit_control(
                place.setting.network,
                start,
                end,
                trained_on,
                allowed,
                seeds=[ends[0].seed],
                steps=bend.steps,
                learning_rate=bend.learning_rate,
                batch_size=min(bend.batch_size, len(trained_on.labels)),
            )
            curves["bezier"] = bezier_path(place.setting.network, start, fitted, end, *measured)
        for name, curve in curves.items():
            keys = pair | {"curve": name, "eval_task": task, "split": place.split}
            heights = barriers(curve, 0, same_task=ends[0].task == ends[1].task)
            row = keys | asdict(heights)
            if task > ends[0].task:
                row |= {"loss_rise": None, "error_rise": None, "connected": None}
            rows["barriers"].append(row)
            rows["paths"] += [
                keys | {"alpha": alpha, "accuracy": accuracy, "loss": loss}
                for alpha, accuracy, loss in zip(
                    curve.alphas.tolist(),
                    curve.accuracy[0].tolist(),
                    curve.loss[0].tolist(),
                    strict=True,
                )
            ]
    return rows


def seed_rows(
    place: Place,
    ends: tuple[End, End],
    weights: tuple[Theta, Theta],
    eval_tasks: Sequence[int],
    points: int,
) -> dict[str, list[Row]]:
    """The line between two seeds' minima, as they are and after aligning the second with the first.

    Alignment permutes hidden units (see `connectivity.alignment`), so the end stays one function.
    """
    start, end = weights
    aligned = align(place.setting.network, start, end, stream(ends[0].seed, "align"))
    before = path_rows(place, ends, weights, "other-seed", eval_tasks, points, None)
    after = path_rows(place, ends, (start, aligned), "aligned", eval_tasks, points, None)
    return {table: before[table] + after[table] for table in before}


def plane_rows(
    place: Place,
    ends: tuple[End, End, End],
    weights: tuple[Theta, Theta, Theta],
    eval_tasks: Sequence[int],
    points: int,
    examples: int,
) -> dict[str, list[Row]]:
    """Loss and accuracy of each task on the plane through three minima; none if in one line."""
    rows: list[Row] = []
    try:
        axes(*weights)
    except ValueError:
        return {"planes": rows}
    for task in eval_tasks:
        plane = measure_plane(
            place.setting.network,
            *weights,
            points,
            place.examples(task, examples),
            place.setting.allowed(task),
            place.group,
        )
        xs, ys = plane.anchors.unbind(dim=1)
        same = {
            "plane_id": "|".join(map(str, ends)),
            "anchors": [str(end) for end in ends],
            "anchor_x": xs.tolist(),
            "anchor_y": ys.tolist(),
            "eval_task": task,
            "split": place.split,
        }
        rows += [
            same | {"x": x, "y": y, "accuracy": accuracy, "loss": loss}
            for y, accuracies, losses in zip(
                plane.ys.tolist(), plane.accuracy.tolist(), plane.loss.tolist(), strict=True
            )
            for x, accuracy, loss in zip(plane.xs.tolist(), accuracies, losses, strict=True)
        ]
    return {"planes": rows}


def spectrum_rows(
    place: Place,
    ends: Sequence[End],
    weights: Sequence[Theta],
    pairs: int,
    examples: int,
    tolerance: float,
    max_steps: int,
) -> dict[str, list[Row]]:
    """The sharpest directions at the first minimum, and how far the ways to the others follow them.

    The loss is that of the minimum's own task on a fixed random draw of its training examples.

    Args:
        place: where it is measured.
        ends: the minimum, then for each later task the sequential and the multitask one.
        weights: theirs.
        pairs: how many eigenpairs.
        examples: of the task, at most all.
        tolerance: of the eigenpairs, relative to the largest eigenvalue.
        max_steps: of Lanczos' method.
    """
    at, start = ends[0], weights[0]
    every = place.setting.examples(at.task)
    index = permutations([0], len(every.labels), "spectrum-examples", count=examples)[0]
    index = index.to(every.labels.device)
    chosen = Examples(every.images[index], every.labels[index])

    allowed = place.setting.allowed(at.task)
    product = hessian_product(place.setting.network, start[None], chosen, allowed, place.group)
    first = torch.randn(len(start), generator=stream(0, "spectrum"), dtype=torch.float64)
    found = top_eigenpairs(
        product, first.to(start)[None], pairs, tolerance=tolerance, max_steps=max_steps
    )
    towards: dict[int, dict[str, list[float]]] = {}
    for end, theta in zip(ends[1:], weights[1:], strict=True):
        if not theta.isfinite().all():  # there is no way to a minimum that has diverged
            continue
        shares = overlaps(found.vectors, (theta - start)[None])[0].tolist()
        towards.setdefault(end.task, {})[f"overlap_{end.minimum}"] = shares
    return {
        "spectra": [
            {
                "minimum": at.minimum,
                "after_task": at.task,
                "eval_task": at.task,
                "split": "train",
                "examples": len(chosen.labels),
                "to_task": task,
                "rank": rank + 1,
                "eigenvalue": float(found.eigenvalues[0, rank]),
                "residual": float(found.residuals[0, rank]),
                **{name: values[rank] for name, values in shares.items()},
            }
            for task, shares in towards.items()
            for rank in range(pairs)
        ]
    }


def similarity_rows(
    place: Place,
    ends: tuple[End, End],
    weights: tuple[Theta, Theta],
    control: Control,
    eval_tasks: Sequence[int],
    examples: int,
) -> dict[str, list[Row]]:
    """Distance and cosine of two minima's weights, linear CKA of their activations, by layer."""
    network, pair = place.setting.network, _pair(ends, control)
    a, b = (theta[None] for theta in weights)
    rows = [
        pair | {"layer": layer, "measure": measure, "value": float(value)}
        for measure, values in (
            ("l2", distances(network, a, b)),
            ("cosine", cosines(network, a, b)),
        )
        for layer, value in values.items()
    ]
    for task in eval_tasks:
        images = place.examples(task, examples).images
        seen = {"eval_task": task, "split": place.split, "measure": "cka"}
        rows += [
            pair | seen | {"layer": layer, "value": float(value)}
            for layer, value in activation_cka(network, a, b, images, place.group).items()
        ]
    return {"similarities": rows}


def _pair(ends: tuple[End, End], control: Control) -> Row:
    """The columns that say which two minima."""
    row: Row = {"path_id": f"{ends[0]}->{ends[1]}", "control": control}
    for side, end in zip(("from", "to"), ends, strict=True):
        row |= {f"{side}_{name}": value for name, value in asdict(end).items()}
    return row


def _above_both_ends(line: Curve) -> bool:
    """Whether the error in between is higher than at either end, by what tells minima apart."""
    accuracy = line.accuracy[0]
    return not stays_low(float(accuracy[[0, -1]].min() - accuracy.min()))
