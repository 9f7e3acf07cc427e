"""Which hyperparameters mattered in a search."""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from math import isfinite
from typing import TYPE_CHECKING, Any

from lmc_ray.report.source import Row, ask

if TYPE_CHECKING:
    import duckdb
    from optuna.distributions import BaseDistribution

_COMPARABLE = ("complete", "diverged")
FEWEST_TRIALS = 4
"""Complete or diverged trials below which no importance is computed."""

_SEED = 0  # the same rows give the same numbers

_SQL = """
SELECT benchmark, study, state, params, coalesce(value, "values"[1]) AS accuracy
FROM tried ORDER BY benchmark, study, number
"""


def importance_rows(database: "duckdb.DuckDBPyConnection") -> list[Row]:
    """What a sweep's search says of its hyperparameters, for the table `importances`.

    What the table has already, from as many trials, is left out.

    Args:
        database: of that sweep.
    """
    known = ask(database, "SELECT DISTINCT benchmark, study, trials FROM importances")
    found = []
    rows = ask(database, _SQL)
    for (benchmark, study), trials in groupby(rows, lambda row: (row["benchmark"], row["study"])):
        done = comparable([row | {"params": json.loads(row["params"])} for row in trials])
        of_study = {"benchmark": benchmark, "study": study, "trials": len(done)}
        if of_study not in known:
            found += [
                of_study | {"hyperparameter": name, "importance": share}
                for name, share in importances(done).items()
            ]
    return found


def importances_of(
    rows: Sequence[Row], database: "duckdb.DuckDBPyConnection"
) -> Mapping[str, float]:
    """The importances of one study: those that the table has from as many trials, else reckoned.

    Args:
        rows: of the study, with `benchmark` and `study` beside what `importances` needs.
        database: of the sweep.
    """
    known = database.execute(
        """
        SELECT hyperparameter, importance FROM importances
        WHERE benchmark = ? AND study = ? AND trials = ? ORDER BY importance DESC
        """,
        [rows[0]["benchmark"], rows[0]["study"], len(comparable(rows))],
    ).fetchall()
    return dict(known) or importances(rows)


def comparable(rows: Sequence[Row]) -> list[Row]:
    """The trials whose accuracy is over all tasks; a diverged one's is at chance."""
    return [
        row
        for row in rows
        if row["state"] in _COMPARABLE and row["accuracy"] is not None and isfinite(row["accuracy"])
    ]


def importances(rows: Sequence[Row]) -> dict[str, float]:
    """The importance of each hyperparameter, from the greatest; empty where nothing can be said.

    Of one alone nothing can: importances are shares of what each explains, and it would have 1.

    Args:
        rows: of one study, with `params`, `accuracy` and `state`.
    """
    done = comparable(rows)
    space = _space([row["params"] for row in done])
    if len(done) < FEWEST_TRIALS or len(space) < 2 or len({row["accuracy"] for row in done}) == 1:
        return {}
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={name: row["params"][name] for name in space},
                distributions=dict(space),
                value=row["accuracy"],
            )
            for row in done
        ]
    )
    try:
        return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=_SEED))
    except RuntimeError:  # accuracies that differ by rounding alone have no variance to explain
        return {}


def _space(tried: Sequence[Mapping[str, Any]]) -> dict[str, "BaseDistribution"]:
    """The ranges that the trials had in common, as far as their values tell."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    space: dict[str, BaseDistribution] = {}
    for name in sorted(set.intersection(*(set(params) for params in tried)) if tried else ()):
        values = [params[name] for params in tried]
        if len(set(map(repr, values))) == 1:
            continue
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            low, high = float(min(values)), float(max(values))
            # By ratio where the values span more than a factor of ten.
            space[name] = FloatDistribution(low, high, log=0 < 10 * low < high)
        else:
            space[name] = CategoricalDistribution(list(dict.fromkeys(values)))
    return space
