"""Ready-made views over the tables: what people ask for most, over seeds, in readable SQL.

`low` and `high` are the ends of the 95 % interval of a mean (Student's t); null for a single seed.
`configuration` tells a method's configurations apart: all that seeds share, as eight hex digits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.special import stdtrit

from lmc_ray.store.schemas import TABLES

if TYPE_CHECKING:
    import duckdb

_MOST = 200
"""Seeds for which t is listed; beyond, it changes by less than 1 % up to infinity."""

_QUANTILES = ", ".join(f"{stdtrit(seeds - 1, 0.975):.6f}" for seeds in range(2, _MOST + 1))

_HALF_WIDTH = f"""
    CREATE MACRO half_width(x) AS
        coalesce(list_extract([{_QUANTILES}], count(x) - 1), {stdtrit(_MOST - 1, 0.975):.6f})
        * stddev_samp(x)
        / sqrt(count(x))
"""


@dataclass(frozen=True)
class View:
    """One view.

    Attributes:
        meaning: what one row is, in a line.
        sql: its query.
    """

    meaning: str
    sql: str


def _over_seeds(*columns: str) -> str:
    """Mean, standard deviation and interval of each column over a group's rows."""
    return ", ".join(
        f"avg({c}) AS {c}, stddev_samp({c}) AS {c}_std, "
        f"avg({c}) - half_width({c}) AS {c}_low, avg({c}) + half_width({c}) AS {c}_high"
        for c in columns
    )


_WHOSE = "sweep, benchmark, method, configuration"
_TRAINED = f"{', '.join(f'c.{name}' for name in _WHOSE.split(', '))}, c.study"
"""Of what trained the first minimum of what was measured, as `confirmed c`."""

_PATH = "path_id, from_minimum, from_task, to_minimum, to_task, curve, control, eval_task, split"

VIEWS: Mapping[str, View] = {
    "confirmed": View(
        "one confirmed cell, with its configuration",
        """
        SELECT *, left(md5(regexp_replace(config,
            '"(seed|path_points)":[0-9]+,|"keep_minima":[^]]*],', '', 'g')), 8) AS configuration
        FROM runs WHERE purpose = 'confirm'
        """,
    ),
    "method_summary": View(
        "one configuration of a method, over the confirmed seeds that have finished",
        f"""
        SELECT {_WHOSE}, any_value(study) AS study, count(average_accuracy) AS seeds,
            count(*) FILTER (status = 'diverged') AS diverged,
            {_over_seeds("average_accuracy", "forgetting", "learning_accuracy")},
            any_value(memory_per_class) AS memory_per_class,
            avg(gradient_evaluations) FILTER (status = 'finished') AS gradient_evaluations,
            avg(examples_seen) FILTER (status = 'finished') AS examples_seen
        FROM confirmed GROUP BY ALL ORDER BY ALL
        """,
    ),
    "accuracy_matrix": View(
        "accuracy on a task after a task, over seeds that have finished; of companions, those too",
        f"""
        SELECT {_WHOSE}, any_value(study) AS study, minimum, after_task, eval_task,
            count(*) AS seeds, {_over_seeds("accuracy", "loss")}
        FROM accuracies JOIN confirmed USING (sweep, cell_id)
        WHERE status = 'finished' AND (loss IS NULL OR isfinite(loss)) GROUP BY ALL ORDER BY ALL
        """,
    ),
    "measured_paths": View(
        "one path on one task, once: an analysis before what training measured, the newest first",
        f"""
        SELECT {_TRAINED}, b.* EXCLUDE (sweep)
        FROM barriers b JOIN runs r USING (sweep, cell_id)
        JOIN confirmed c ON c.sweep = b.sweep AND c.cell_id = b.from_cell_id
        QUALIFY row_number() OVER (
            PARTITION BY b.sweep, b.from_cell_id, b.to_cell_id, {_PATH.replace("split", "b.split")}
            ORDER BY r.purpose = 'analysis' DESC, r.path_points DESC, r.finished_at DESC, b.cell_id
        ) = 1
        """,
    ),
    "barrier_summary": View(
        "one path on one task in numbers, over seeds; `connected` is the share of seeds",
        f"""
        SELECT {_WHOSE}, any_value(study) AS study, {_PATH}, count(*) AS seeds,
            avg(connected::INT) AS connected,
            {_over_seeds("loss_rise", "error_rise", "loss_barrier", "error_barrier", "instability")}
        FROM measured_paths GROUP BY ALL ORDER BY ALL
        """,
    ),
    "path_curves": View(
        "one point of a path on one task, over seeds",
        f"""
        SELECT m.sweep, m.benchmark, m.method, m.configuration, any_value(m.study) AS study,
            {", ".join(f"m.{name}" for name in _PATH.split(", "))}, alpha, count(*) AS seeds,
            {_over_seeds("loss", "accuracy")}
        FROM measured_paths m
        JOIN paths p USING (sweep, cell_id, path_id, curve, control, eval_task, split)
        GROUP BY ALL ORDER BY ALL
        """,
    ),
    "measured_spectra": View(
        "one eigenpair of a minimum, once: of the newest spectrum with most directions",
        f"""
        SELECT {_TRAINED}, c.seed, c.cell_id AS from_cell_id, s.* EXCLUDE (sweep)
        FROM spectra s JOIN runs r USING (sweep, cell_id)
        JOIN confirmed c ON c.sweep = s.sweep AND c.cell_id = r.config ->> '$.ends[0][0]'
        QUALIFY s.cell_id = first_value(s.cell_id) OVER (
            PARTITION BY s.sweep, c.cell_id, minimum, after_task, eval_task
            ORDER BY rank DESC, examples DESC, r.finished_at DESC, s.cell_id
        )
        """,
    ),
    "subspace_shares": View(
        "one seed's way to a later minimum: its square's share in the sharpest directions",
        f"""
        SELECT {_WHOSE}, any_value(study) AS study, seed, from_cell_id AS cell_id,
            minimum, after_task, eval_task, to_task, count(*) AS directions,
            sum(overlap_sequential ** 2) AS sequential, sum(overlap_multitask ** 2) AS multitask
        FROM measured_spectra GROUP BY ALL ORDER BY ALL
        """,
    ),
    "spectrum_summary": View(
        "one eigenvalue of a Hessian by rank, and its direction's overlaps, over seeds",
        f"""
        SELECT {_WHOSE}, any_value(study) AS study, minimum, after_task, eval_task, to_task, rank,
            count(*) AS seeds, max(residual) AS residual,
            {_over_seeds("eigenvalue", "overlap_sequential", "overlap_multitask")}
        FROM measured_spectra GROUP BY ALL ORDER BY ALL
        """,
    ),
    "measured_similarities": View(
        "how alike two minima are in a layer by a measure, once: on the most examples",
        f"""
        SELECT {_TRAINED}, s.* EXCLUDE (sweep)
        FROM similarities s JOIN runs r USING (sweep, cell_id)
        JOIN confirmed c ON c.sweep = s.sweep AND c.cell_id = s.from_cell_id
        QUALIFY row_number() OVER (
            PARTITION BY s.sweep, from_cell_id, to_cell_id, path_id, s.control, eval_task,
                layer, measure
            ORDER BY TRY_CAST(r.config ->> '$.options.examples' AS INT) DESC, s.cell_id
        ) = 1
        """,
    ),
    "similarity_summary": View(
        "how alike two minima are in a layer by a measure, over the seeds in which it is defined",
        f"""
        SELECT {_WHOSE}, any_value(study) AS study, path_id, from_minimum, from_task, to_minimum,
            to_task, control, eval_task, layer, measure, count(*) AS seeds, {_over_seeds("value")}
        FROM measured_similarities WHERE isfinite(value) GROUP BY ALL ORDER BY ALL
        """,
    ),
    "tried": View(
        "one trial of a search, with the benchmark that files before version 4 leave out",
        """
        WITH old AS (SELECT sweep, unnest(cells) AS cell_id FROM trials WHERE benchmark IS NULL),
        sweeps AS (
            SELECT sweep, any_value(r.benchmark) AS benchmark
            FROM old JOIN runs r USING (sweep, cell_id) GROUP BY sweep
        )
        SELECT t.* REPLACE (coalesce(t.benchmark, sweeps.benchmark) AS benchmark)
        FROM trials t LEFT JOIN sweeps USING (sweep)
        """,
    ),
    "best_trials": View(
        "the trials of a search that came to their end, the best of each study first",
        """
        WITH done AS (FROM tried WHERE state = 'complete'),
        told AS (
            SELECT d.sweep, d.benchmark, d.study, number, avg(r.forgetting) AS forgetting
            FROM (SELECT sweep, benchmark, study, number, unnest(cells) AS cell_id FROM done) d
            JOIN runs r USING (sweep, cell_id) GROUP BY ALL
        )
        SELECT sweep, benchmark, study, row_number() OVER (
                PARTITION BY sweep, benchmark, study ORDER BY values[1] DESC, number) AS place,
            number, values[1] AS accuracy, forgetting, values[2] AS memory, params
        FROM done LEFT JOIN told USING (sweep, benchmark, study, number)
        ORDER BY sweep, benchmark, study, place
        """,
    ),
    "best_so_far": View(
        "one trial that came to its end, with the best accuracy of its study until then",
        """
        SELECT sweep, benchmark, study, number, values[1] AS accuracy,
            max(values[1]) OVER (PARTITION BY sweep, benchmark, study ORDER BY number) AS best
        FROM tried WHERE state = 'complete' ORDER BY sweep, benchmark, study, number
        """,
    ),
    "pareto_front": View(
        "one trial that no other of its study beats in accuracy with as little memory",
        """
        SELECT sweep, benchmark, study, number, values[1] AS accuracy, values[2] AS memory, params
        FROM tried WHERE state = 'complete' AND len(values) > 1
        QUALIFY values[1] > coalesce(max(values[1]) OVER (
            PARTITION BY sweep, benchmark, study ORDER BY values[2], values[1] DESC, number
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ), -1)
        ORDER BY sweep, benchmark, study, memory
        """,
    ),
}


def create(connection: "duckdb.DuckDBPyConnection") -> None:
    """Make the views in a connection that has the tables."""
    connection.execute(_HALF_WIDTH)
    for name, view in VIEWS.items():
        connection.execute(f"CREATE VIEW {name} AS {view.sql}")


def columns() -> dict[str, list[str]]:
    """The columns of every view."""
    import duckdb

    with duckdb.connect() as connection:
        for name, table in TABLES.items():
            connection.register(name, table.schema.empty_table())
        create(connection)
        return {name: connection.table(name).columns for name in VIEWS}
