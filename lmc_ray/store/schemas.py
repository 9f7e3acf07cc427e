"""What every table holds: one pyarrow schema a table, its key, and the words that explain it.

Columns are only ever added, and each addition raises `SCHEMA_VERSION`: an older file reads with
nulls in the new columns, a newer file is refused with the advice to upgrade. Version 2 has the
columns of version 1; its roots may be compacted, which a reader of version 1 would not see through.
Version 3 adds kept minima and what is measured between them. The tables
`speeds` and `importances` came later: code without them does not look at them. Version 4 gives
trials their benchmark: a sweep may have several. Version 5 has room for methods of one's own.
Fractions (accuracy, error, forgetting) lie in [0, 1]; tasks count from 1; times are UTC.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

SCHEMA_VERSION = 5
VERSION_KEY = b"lmc_ray.schema_version"

TEXT = pa.string()
INT = pa.int64()
REAL = pa.float64()
FLAG = pa.bool_()
TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Table:
    """One table of the results root.

    Attributes:
        meaning: what one row is, in a line.
        schema: its columns; a field's metadata may carry a `description`.
        key: the columns that, within one sweep and one attempt, no two rows share.
    """

    meaning: str
    schema: pa.Schema
    key: tuple[str, ...]


def _column(name: str, kind: pa.DataType, description: str = "") -> pa.Field:
    metadata: dict[bytes | str, bytes | str] | None = None
    if description:
        metadata = {"description": description}
    return pa.field(name, kind, metadata=metadata)


def description(field: pa.Field) -> str:
    """The sentence that explains a column; empty where its name says it all."""
    return (field.metadata or {}).get(b"description", b"").decode()


def _schema(*columns: pa.Field | Iterable[pa.Field]) -> pa.Schema:
    fields = [f for c in columns for f in ([c] if isinstance(c, pa.Field) else c)]
    return pa.schema(fields, metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()})


_ATTEMPT = _column("attempt", TEXT, "the execution that wrote the row; one per cell is visible")
_CELL = (
    _column("sweep", TEXT),
    _column("cell_id", TEXT, "hash of configuration, seed and purpose: the cell's identity"),
    _ATTEMPT,
    _column("seed", INT),
)

_IDENTITY = (
    _column("purpose", TEXT, "search, confirm, control (to measure against), nightly or analysis"),
    _column(
        "analysis", TEXT, "what an analysis measured: path, seeds, plane, spectrum or similarity"
    ),
    _column("status", TEXT, "finished, diverged (the loss became NaN or infinite) or pruned"),
    _column("tasks_completed", INT),
    _column("study", TEXT, "which study of the sweep proposed the configuration"),
    _column("trial", INT, "the study's trial number; null for confirm"),
    _column("night", TEXT),
    _column("reused_from", TEXT, "the sweep that ran this cell, if it was not this one"),
    _column("method", TEXT, "naive-sgd, ewc, agem, er, stable-sgd, mcsgd, multitask, …"),
)

_MEASURED_ON = (
    _column("benchmark", TEXT),
    _column("network", TEXT),
    _column("tasks", INT),
    _column("angle", REAL, "degrees between neighbouring tasks (rotated)"),
    _column("classes_per_task", INT),
    _column("fingerprint", TEXT, "SHA-256 of the decoded source images and labels"),
    _column("split", TEXT, "the part that accuracies were measured on: validation or test"),
    _column("dtype", TEXT),
    _column("evaluation_group", INT, "images per evaluation batch"),
    _column("protocol", INT, "version of the measuring protocol"),
)

_HYPERPARAMETERS = (
    _column("learning_rate", REAL, "of task 1"),
    _column("lr_decay", REAL, "factor on the learning rate from task to task"),
    _column("lr_floor", REAL),
    _column("momentum", REAL),
    _column("dropout", REAL),
    _column("batch_size", INT),
    _column("epochs", INT),
    _column("first_task_epochs", INT),
    _column("shuffle", FLAG),
    _column("multitask_schedule", TEXT, "joint or growing"),
    _column("examples_per_task", INT, "per task and pass of the growing schedule, at most all"),
    _column("memory_per_class", INT, "examples kept per class and task"),
    _column("connect_learning_rate", REAL),
    _column("connect_momentum", REAL),
    _column("line_samples", INT, "n of J: points on each line, beside the end alpha = 0"),
    _column(
        "connect_steps", INT, "steps on J per task; 0 = as many as the longer list has batches"
    ),
    _column("init_position", REAL, "start of w on the line, 0 = connected end, 1 = sequential end"),
    _column("path_weight", TEXT),
    _column("path_reduction", TEXT),
    _column("path_sampling", TEXT),
    _column("path_dropout", FLAG),
    _column("continue_from", TEXT, "where task t's SGD starts: connected or sequential"),
    _column("connect_schedule", TEXT),
    _column("connect_batches", TEXT),
    _column("connect_examples", INT, "current-task examples used in J, at most all"),
    _column("connect_batch_size", INT),
    _column("loss_scale", TEXT),
    _column("memory_draw", TEXT),
    _column("memory_includes_current", FLAG),
    _column("replay_batch_size", INT, "remembered examples that each step of SGD replays"),
    _column("replay_batches", TEXT, "each from the whole memory, mixed, or from one task, by_task"),
    _column("replay_memory", TEXT, "how ER's and A-GEM's memory is kept: reservoir or ring"),
    _column("ewc_strength", REAL, "lambda of EWC's penalty"),
    _column("ewc_penalty", TEXT, "per_task or online"),
    _column("ewc_decay", REAL, "of older tasks' Fisher information in the online penalty"),
    _column("fisher_examples", INT, "examples of each task that the Fisher information averages"),
    _column("fisher_labels", TEXT, "sampled from the model, or empirical"),
    _column("average_position", REAL, "of weight averaging: 0 = before the task, 1 = after it"),
    _column("ema_decay", REAL, "of the exponential moving average, per step"),
    _column("path_points", INT, "values of alpha on each measured path; 0 = none measured"),
)

_KEPT = (
    _column("keep_minima", pa.list_(INT), "the tasks after which minima were kept; null = none"),
    _column("initialisation", INT, "0 = the seed's own w_0; a control may have another"),
)

_OWN = (
    _column("own_minimum", TEXT, "whose accuracy is the method's: sequential, connected, …"),
    _column("own_hyperparameters", TEXT, "as JSON, those that have no column; null = none"),
)

_CONFIG = _column("config", TEXT, "the whole specification as canonical JSON")

_OUTCOME = (
    _column("average_accuracy", REAL, "mean over tasks after the last one; fraction"),
    _column("forgetting", REAL, "mean drop from each task's best; fraction; null for multitask"),
    _column("backward_transfer", REAL, "mean change since each task was learned; fraction"),
    _column("learning_accuracy", REAL, "mean accuracy right after learning; fraction"),
    _column(
        "gradient_evaluations",
        INT,
        "backward passes, one per batch, of EWC's Fisher information as well",
    ),
    _column("examples_seen", INT, "examples in those passes, repeats counted"),
    _column("wall_seconds", REAL, "of training and measuring the whole stack"),
    _column("replicas", INT, "cells that trained in the same stack"),
    _column("device", TEXT),
    _column("host", TEXT),
    _column("version", TEXT),
    _column("git_commit", TEXT),
    _column("started_at", TIME),
    _column("finished_at", TIME),
)

_PAIR = (
    _column("path_id", TEXT, "which two minima, e.g. sequential:1->multitask:5"),
    _column("from_cell_id", TEXT),
    _column("from_seed", INT),
    _column("from_minimum", TEXT),
    _column("from_task", INT),
    _column("to_cell_id", TEXT),
    _column("to_seed", INT),
    _column("to_minimum", TEXT),
    _column("to_task", INT),
    _column("control", TEXT, "same-init, other-init, other-seed or aligned"),
)

_PATH = (*_PAIR, _column("curve", TEXT, "linear or bezier"))

_EVALUATED = (
    _column("eval_task", INT, "the task whose examples were scored"),
    _column("split", TEXT),
)

TABLES: Mapping[str, Table] = {
    "runs": Table(
        "one cell: its configuration, its seed and its summary numbers",
        _schema(_CELL, _IDENTITY, _MEASURED_ON, _HYPERPARAMETERS, _KEPT, _OWN, _CONFIG, _OUTCOME),
        ("cell_id",),
    ),
    "accuracies": Table(
        "one minimum after one task, scored on one task",
        _schema(
            _CELL,
            _column("minimum", TEXT, "sequential, multitask, connected, inner or averaged"),
            _column("after_task", INT, "the last task that had been learned"),
            _EVALUATED,
            _column("accuracy", REAL, "fraction"),
            _column("loss", REAL, "mean cross-entropy"),
            _column("examples", INT),
        ),
        ("cell_id", "minimum", "after_task", "eval_task", "split"),
    ),
    "paths": Table(
        "one point of the line between two minima, scored on one task",
        _schema(
            _CELL,
            _PATH,
            _EVALUATED,
            _column("alpha", REAL, "0 at the from end, 1 at the to end"),
            _column("accuracy", REAL, "fraction"),
            _column("loss", REAL, "mean cross-entropy"),
        ),
        ("cell_id", "path_id", "curve", "control", "eval_task", "split", "alpha"),
    ),
    "barriers": Table(
        "one path in numbers, on one task",
        _schema(
            _CELL,
            _PATH,
            _EVALUATED,
            _column("loss_rise", REAL, "highest loss on the path minus the loss at its from end"),
            _column("error_rise", REAL, "the same of the error; fraction"),
            _column("connected", FLAG, "error_rise < 0.02; null, like both rises, before the task"),
            _column("loss_barrier", REAL, "highest excess of the loss over its chord"),
            _column("error_barrier", REAL, "the same of the error; fraction"),
            _column("instability", REAL, "null unless both ends were trained on the same task"),
            _column("max_loss", REAL),
            _column("mean_loss", REAL),
            _column("argmax_alpha", REAL, "where the loss is highest"),
        ),
        ("cell_id", "path_id", "curve", "control", "eval_task", "split"),
    ),
    "minima": Table(
        "one kept minimum: where its weights are",
        _schema(
            _CELL,
            _column("minimum", TEXT, "sequential, multitask, connected, inner or averaged"),
            _column("task", INT, "the last task that had been learned"),
            _column("uri", TEXT, "a safetensors file of named weights, relative to the root"),
            _column("sha256", TEXT, "of the file"),
            _column("bytes", INT),
        ),
        ("cell_id", "minimum", "task"),
    ),
    "similarities": Table(
        "how alike two minima are, in one layer, by one measure",
        _schema(
            _CELL,
            _PAIR,
            _column("eval_task", INT, "the task whose examples CKA saw; null for weights"),
            _column("split", TEXT),
            _column("layer", TEXT, "a layer of the network; all = the whole weight vector"),
            _column("measure", TEXT, "l2 or cosine (of weights), or cka (of activations)"),
            _column("value", REAL),
        ),
        ("cell_id", "path_id", "control", "eval_task", "split", "layer", "measure"),
    ),
    "planes": Table(
        "one grid point of the plane through three minima, scored on one task",
        _schema(
            _CELL,
            _column("plane_id", TEXT, "which three minima, e.g. sequential:1|sequential:5|…"),
            _column("anchors", pa.list_(TEXT), "the three minima, e.g. sequential:1"),
            _column("anchor_x", pa.list_(REAL), "where they lie on the plane"),
            _column("anchor_y", pa.list_(REAL)),
            _EVALUATED,
            _column("x", REAL, "along the first axis: L2 distance from the first minimum"),
            _column("y", REAL, "along the second axis, at right angles to the first"),
            _column("accuracy", REAL, "fraction"),
            _column("loss", REAL, "mean cross-entropy"),
        ),
        ("cell_id", "plane_id", "eval_task", "split", "x", "y"),
    ),
    "spectra": Table(
        "one eigenpair of the Hessian of a task's loss at a minimum",
        _schema(
            _CELL,
            _column("minimum", TEXT, "where the Hessian was taken"),
            _column("after_task", INT),
            _EVALUATED,
            _column("examples", INT, "that the loss is the mean over"),
            _column("to_task", INT, "the overlaps are with displacements to minima of this task"),
            _column("rank", INT, "1 = the largest eigenvalue"),
            _column("eigenvalue", REAL),
            _column("residual", REAL, "norm of H v - eigenvalue v, for v of length 1"),
            _column("overlap_sequential", REAL, "|cos| of v with the way to the sequential one"),
            _column("overlap_multitask", REAL, "|cos| of v with the way to the multitask one"),
        ),
        ("cell_id", "minimum", "after_task", "eval_task", "split", "to_task", "rank"),
    ),
    "trials": Table(
        "one configuration that the search proposed",
        _schema(
            _column("sweep", TEXT),
            _ATTEMPT,
            _column("benchmark", TEXT, "null in old files: the sweep's only one; see `tried`"),
            _column("study", TEXT),
            _column("number", INT),
            _column("generation", INT, "proposed together with the others of that number"),
            _column("state", TEXT, "complete, pruned, diverged or failed"),
            _column("params", TEXT, "the proposed hyperparameters as JSON"),
            _column("value", REAL, "the objective; null in a Pareto search"),
            _column("values", pa.list_(REAL), "every objective"),
            _column("pruned_at_task", INT),
            _column("cells", pa.list_(TEXT), "its cells, one per seed"),
        ),
        ("benchmark", "study", "number"),
    ),
    "importances": Table(
        "what a hyperparameter explains of the accuracy in a search, by functional ANOVA",
        _schema(
            _column("sweep", TEXT),
            _ATTEMPT,
            _column("benchmark", TEXT),
            _column("study", TEXT),
            _column("trials", INT, "complete and diverged ones that it follows from"),
            _column("hyperparameter", TEXT),
            _column("importance", REAL, "of what it does alone; all of a study sum to 1"),
        ),
        ("benchmark", "study", "trials", "hyperparameter"),
    ),
    "nights": Table(
        "one method on one benchmark in one night, beside the nights before",
        _schema(
            _column("sweep", TEXT),
            _ATTEMPT,
            _column("night", TEXT, "UTC date"),
            _column("method", TEXT),
            _column("benchmark", TEXT),
            _column("configuration", TEXT, "all but seed, night and code, as canonical JSON"),
            _column("seeds", INT, "fresh seeds of that night"),
            _column("mean", REAL, "their accuracy; fraction, diverged seeds at chance"),
            _column("low", REAL, "lower end of the 95 % interval of the mean"),
            _column("high", REAL),
            _column("earlier_seeds", INT, "of earlier nights and confirmed: compared with"),
            _column("difference", REAL, "mean minus that of the earlier seeds; null: too few"),
            _column("difference_low", REAL, "lower end of its 95 % interval"),
            _column("difference_high", REAL),
            _column("p", REAL, "of a drop by chance, times `comparisons`"),
            _column("anchors", INT, "seeds that every night trains again"),
            _column("anchor_difference", REAL, "mean over anchors, each minus itself before"),
            _column("anchor_low", REAL),
            _column("anchor_high", REAL),
            _column("anchor_p", REAL, "of a drop by chance, times `comparisons`"),
            _column("comparisons", INT, "methods × benchmarks × 2: what p is corrected for"),
            _column("false_alarms", REAL, "a night's rate of them: regressed means p below it,"),
            _column("minimum_effect", REAL, "and a drop of more than this; fraction"),
            _column("verdict", TEXT, "fine or regressed"),
            _column("version", TEXT),
            _column("git_commit", TEXT),
            _column("cells", pa.list_(TEXT), "the fresh seeds' cells"),
            _column("anchor_cells", pa.list_(TEXT)),
        ),
        ("night", "method", "benchmark"),
    ),
    "speeds": Table(
        "one workload that `lmc-ray bench` has measured on a device",
        _schema(
            _column("sweep", TEXT),
            _ATTEMPT,
            _column("measured_at", TIME),
            _column("device", TEXT),
            _column("benchmark", TEXT),
            _column("method", TEXT),
            _column("network", TEXT),
            _column("batch_size", INT),
            _column("replicas", INT, "in a worker's stack"),
            _column("workers", INT, "at the same time"),
            _column("peak_flops", REAL, "FLOP/s of the best fp32 matrix product"),
            _column("peak_bytes", REAL, "bytes/s of the best copy"),
            _column("steps_per_second", REAL, "mini-batch gradients, times replicas"),
            _column("flops_per_second", REAL, "of training"),
            _column("bytes_per_second", REAL, "of training: parameters, gradient and update"),
            _column("evaluation_flops_per_second", REAL),
            _column("cell_flops_per_second", REAL, "of a whole cell"),
            _column("cell_seconds", REAL, "of a worker, per replica"),
            _column("cells_per_hour", REAL, "of all workers"),
            _column("data_share", REAL, "of a cell's time"),
            _column("gradient_share", REAL, "forward and backward"),
            _column("update_share", REAL),
            _column("connection_share", REAL, "steps on J"),
            _column("evaluation_share", REAL),
            _column("other_share", REAL),
            _column("plain_ratio", REAL, "steps/s over those of as many plain loops, preloaded"),
            _column("loader_ratio", REAL, "the same with a DataLoader"),
            _column("private_bytes", INT, "a worker's peak memory beyond what is shared"),
            _column("predicted_bytes", INT, "what was predicted of it"),
            _column("version", TEXT),
        ),
        (
            *("measured_at", "device", "benchmark", "method", "network"),
            *("batch_size", "replicas", "workers"),
        ),
    ),
}

# The tables whose rows belong to no cell: each of their files is a mark of its own.
LOOSE_TABLES = ("trials", "importances", "nights", "speeds")

# The tables whose rows count only through their cell's row in `runs`.
CELL_TABLES = tuple(name for name in TABLES if name not in ("runs", *LOOSE_TABLES))

# The columns of `runs` that two cells of one method must share to be seeds of one configuration.
CONFIGURATION = (
    *(field.name for field in (*_MEASURED_ON, *_HYPERPARAMETERS)),
    "initialisation",
    "own_hyperparameters",
)

# Hyperparameters that came after cells without them had been stored: the column that says whether
# the cell's method has them, and what it then ran as with.
CAME_LATER = {
    "initialisation": ("learning_rate", 0),
    "replay_batch_size": ("connect_learning_rate", 0),
    "replay_batches": ("replay_memory", "mixed"),
}


# What `own_minimum` is where a file is older than the column; of other methods, plain SGD's.
OWN_MINIMUM = {
    "mcsgd": "connected",
    "er-mcsgd": "connected",
    "weight-averaging": "averaged",
    "ema": "averaged",
    "multitask": "multitask",
}
PLAIN_MINIMUM = "sequential"


def with_defaults(runs: pa.Table) -> pa.Table:
    """Rows of `runs`, those of older files as today's: else a configuration would be two."""
    for name, (has, default) in CAME_LATER.items():
        choice = [runs[has].is_valid(), runs[name].fill_null(default), runs[name]]
        column = pc.call_function("if_else", choice)
        runs = _replaced(runs, name, column)
    earlier = [OWN_MINIMUM.get(method, PLAIN_MINIMUM) for method in runs["method"].to_pylist()]
    minima = pc.call_function("coalesce", [runs["own_minimum"], pa.array(earlier, TEXT)])
    return _replaced(runs, "own_minimum", minima)


def _replaced(runs: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    return runs.set_column(runs.schema.get_field_index(name), runs.schema.field(name), column)
