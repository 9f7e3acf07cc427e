"""The ready-made views and the contrasts within seeds, beside the same numbers by hand."""

from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from results import accuracies, barrier, cells, measured, path, run, trial

from lmc_ray.statistics import holm, paired, summarise
from lmc_ray.store import Store
from lmc_ray.store.views import VIEWS, columns
from lmc_ray.tables import contrast_sheets
from lmc_ray.tables.contrasts import contrasts
from lmc_ray.tables.groups import confirmed

RISES = (0.5, 0.75, 1.0, 0.25, 0.625, 0.875)
"""Of the loss on the way to the sequential minimum, by seed; to the multitask one a fifth of it."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Six trios whose paths training has measured; the first one's an analysis too."""
    store = Store(str(tmp_path))
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("runs", "accuracies", "barriers", "paths")
    }
    for seed, rise in enumerate(RISES):
        cell = f"c{seed}"
        config = f'{{"path_points":5,"seed":{seed},"split":"test"}}'
        rows["runs"].append(
            run(cell, seed, average_accuracy=rise, path_points=5, config=config, forgetting=0.1)
        )
        rows["accuracies"] += accuracies(cell, value=rise)
        for minimum, share in (("sequential", 1.0), ("multitask", 0.2)):
            line = barrier(cell, ("sequential", 1), (minimum, 2), loss_rise=share * rise)
            line |= {"connected": seed < 3, "from_seed": seed, "to_seed": seed}
            rows["barriers"].append(line)
            rows["paths"] += path(line, 5)
    store.commit("s", "a", rows)
    again = barrier("c0", ("sequential", 1), ("multitask", 2), loss_rise=0.125)
    again |= {"cell_id": "analysis", "from_seed": 0, "to_seed": 0, "connected": True}
    told = run("analysis", 0, purpose="analysis", analysis="path", path_points=9, config="{}")
    store.commit("s", "b", {"runs": [told], "barriers": [again], "paths": path(again, 9)})
    return store


def ask(store: Store, sql: str) -> list[tuple[Any, ...]]:
    with store.database() as database:
        return database.execute(sql).fetchall()


def test_every_view_can_be_asked_of_an_empty_root(tmp_path: Path) -> None:
    known = columns()
    with Store(str(tmp_path)).database() as database:
        for name in VIEWS:
            assert database.sql(f"SELECT * FROM {name}").columns == known[name]
            assert database.sql(f"SELECT count(*) FROM {name}").fetchall() == [(0,)]


def test_intervals_are_those_of_student(store: Store) -> None:
    (row,) = ask(
        store,
        "SELECT seeds, average_accuracy, average_accuracy_std, average_accuracy_low,"
        " average_accuracy_high FROM method_summary",
    )
    wanted = summarise(RISES)
    assert row[0] == wanted.count
    assert row[1:] == pytest.approx((wanted.mean, wanted.std, wanted.low, wanted.high), rel=1e-5)


@pytest.mark.parametrize("seeds", [1, 2, 3, 200, 201, 500])
def test_intervals_for_any_number_of_seeds(tmp_path: Path, seeds: int) -> None:
    store = Store(str(tmp_path))
    values = [(seed * 7 % 11) / 11 for seed in range(seeds)]
    rows = [
        run(f"c{seed}", seed, average_accuracy=value, config=f'{{"seed":{seed},"split":"test"}}')
        for seed, value in enumerate(values)
    ]
    store.commit("s", "a", {"runs": rows})
    ((low, high),) = ask(
        store, "SELECT average_accuracy_low, average_accuracy_high FROM method_summary"
    )
    wanted = summarise(values)
    if seeds == 1:
        assert (low, high) == (None, None)
    else:
        assert (low, high) == pytest.approx((wanted.low, wanted.high), rel=2e-3)


def test_seeds_of_one_configuration_have_one_name(store: Store) -> None:
    assert len(ask(store, "SELECT DISTINCT configuration FROM confirmed")) == 1


def test_a_seed_that_has_diverged_is_in_no_mean(store: Store) -> None:
    """What it learned before is stored, and would count for the first tasks only."""
    lost = run("lost", 6, status="diverged", config='{"path_points":5,"seed":6,"split":"test"}')
    store.commit("s", "lost", {"runs": [lost], "accuracies": accuracies("lost", value=0.0)})
    rows = ask(store, "SELECT DISTINCT seeds, accuracy FROM accuracy_matrix")
    assert rows == [(6, pytest.approx(fmean(RISES)))]
    assert ask(store, "SELECT seeds, diverged FROM method_summary") == [(6, 1)]


def test_an_analysis_stands_for_what_training_measured(store: Store) -> None:
    (row,) = ask(
        store,
        "SELECT cell_id, loss_rise FROM measured_paths"
        " WHERE from_cell_id = 'c0' AND to_minimum = 'multitask'",
    )
    assert row == ("analysis", 0.125)
    points = ask(
        store,
        "SELECT to_minimum, seeds, count(*) FROM path_curves GROUP BY ALL ORDER BY ALL",
    )
    assert points == [("multitask", 1, 4), ("multitask", 6, 5), ("sequential", 6, 5)]
    (row,) = ask(
        store,
        "SELECT seeds, connected, loss_rise FROM barrier_summary WHERE to_minimum = 'multitask'",
    )
    assert row == (6, 0.5, pytest.approx(fmean([0.125, *(0.2 * rise for rise in RISES[1:])])))


def test_of_two_measurements_in_other_ways_the_newest_shows_in_every_seed(tmp_path: Path) -> None:
    """A curve bent with more steps is another cell, and hashes have no order."""
    store = Store(str(tmp_path))
    for number, height in enumerate((0.5, 0.25)):
        for seed in range(6):
            cell = f"{(seed + number) % 2}-{seed}-{number}"
            line = barrier(f"c{seed}", ("sequential", 1), ("multitask", 2), loss_rise=height)
            line |= {"cell_id": cell, "curve": "bezier", "from_seed": seed, "to_seed": seed}
            told = run(cell, seed, purpose="analysis", analysis="path", path_points=9, config="{}")
            told["finished_at"] = datetime(2026, 11, 1 + number, tzinfo=UTC)
            rows = {"runs": [told], "barriers": [line]}
            if not number:
                rows["runs"].append(run(f"c{seed}", seed))
            store.commit("s", cell, rows)
    assert ask(store, "SELECT DISTINCT loss_rise FROM measured_paths") == [(0.25,)]


def test_paths_of_cells_that_another_sweep_took_over_are_in_both(store: Store) -> None:
    store.reuse("t", "x", {f"c{seed}": {} for seed in range(len(RISES))})
    found = ask(
        store,
        """SELECT m.sweep, count(*), count(DISTINCT from_cell_id), sum(loss_rise)
        FROM measured_paths m WHERE to_minimum = 'sequential' GROUP BY ALL ORDER BY ALL""",
    )
    assert found == [("s", 6, 6, pytest.approx(sum(RISES))), ("t", 6, 6, pytest.approx(sum(RISES)))]


def test_the_points_of_a_line_are_not_those_of_its_curve(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rows: dict[str, list[dict[str, Any]]] = {"runs": [run("c")], "barriers": [], "paths": []}
    for curve, loss in (("bezier", 0.25), ("linear", 2.0)):
        line = barrier("c", ("sequential", 1), ("multitask", 2)) | {"curve": curve}
        rows["barriers"].append(line)
        rows["paths"] += [point | {"curve": curve, "loss": loss} for point in path(line, 3)]
    store.commit("s", "a", rows)
    sql = "SELECT curve, alpha, seeds, loss FROM path_curves ORDER BY ALL"
    assert ask(store, sql) == [
        (curve, alpha, 1, loss)
        for curve, loss in (("bezier", 0.25), ("linear", 2.0))
        for alpha in (0, 0.5, 1)
    ]


def test_seeds_with_and_without_kept_minima_are_one_configuration(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    kept = ("", '"keep_minima":[1],', '"keep_minima":[1,2],')
    runs = [
        run(
            f"c{seed}", seed, config=f'{{"epochs":1,{each}"path_points":5,"seed":{seed},"tasks":2}}'
        )
        for seed, each in enumerate(kept)
    ]
    other = run("d", 3, config='{"epochs":2,"path_points":5,"seed":3,"tasks":2}')
    store.commit("s", "a", {"runs": [*runs, other]})
    sql = "SELECT count(*) FROM confirmed GROUP BY configuration ORDER BY 1"
    assert ask(store, sql) == [(1,), (3,)]


def test_what_a_method_costs_is_that_of_seeds_that_have_finished(tmp_path: Path) -> None:
    """One that has diverged stopped early."""
    store = Store(str(tmp_path))
    runs = [
        run(f"c{seed}", seed, status=status, gradient_evaluations=cost, examples_seen=10 * cost)
        for seed, (status, cost) in enumerate(
            (("finished", 100), ("finished", 300), ("diverged", 1))
        )
    ]
    store.commit("s", "a", {"runs": runs})
    assert ask(store, "SELECT gradient_evaluations, examples_seen FROM method_summary") == [
        (200, 2_000)
    ]


def test_shares_belong_to_the_cell_they_start_from(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rows = cells("x")
    spectrum = measured("s1")["spectra"][0] | {"overlap_sequential": 0.6, "overlap_multitask": 0.1}
    more = [spectrum | {"cell_id": "s2", "rank": rank} for rank in (1, 2)]
    config = '{"ends":[["x","sequential",1],["x","sequential",2]]}'
    told = [
        run(cell, purpose="analysis", analysis="spectrum", config=config) for cell in ("s1", "s2")
    ]
    store.commit("s", "a", {**rows, "runs": [*rows["runs"], *told], "spectra": [spectrum, *more]})
    found = ask(store, "SELECT cell_id, directions, sequential, multitask FROM subspace_shares")
    assert found == [("x", 2, pytest.approx(0.72), pytest.approx(0.02))], "the finer one, once"
    ranks = ask(store, "SELECT rank, seeds FROM spectrum_summary ORDER BY rank")
    assert ranks == [(1, 1), (2, 1)], "a seed counts once"


def test_a_similarity_counts_once_on_the_most_examples(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rows = cells("x")
    for examples, value in ((100, 0.1), (2000, 0.7), (500, 0.2)):
        cell = f"s{examples}"
        config = f'{{"ends":[["x","sequential",1]],"options":{{"examples":{examples}}}}}'
        told = run(cell, purpose="analysis", analysis="similarity", config=config)
        found = measured("x")["similarities"][0] | {"cell_id": cell, "value": value}
        store.commit("s", cell, {**rows, "runs": [*rows["runs"], told], "similarities": [found]})
    assert ask(store, "SELECT seeds, value FROM similarity_summary") == [(1, 0.7)]


def test_a_dead_layer_of_one_seed_is_not_all_of_them(tmp_path: Path) -> None:
    """Where a layer's activations are constant there is no CKA."""
    store = Store(str(tmp_path))
    for cell, value in (("a", 0.5), ("b", float("nan")), ("c", 0.7)):
        told = run(
            f"of-{cell}", purpose="analysis", config=f'{{"ends":[["{cell}","sequential",1]]}}'
        )
        found = measured(f"of-{cell}")["similarities"][0] | {"from_cell_id": cell, "value": value}
        store.commit("s", cell, {"runs": [run(cell), told], "similarities": [found]})
    found = ask(store, "SELECT seeds, value FROM similarity_summary")
    assert found == [(2, pytest.approx(0.6))]


def test_spectra_and_similarities_of_each_benchmark_and_study(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for cell, benchmark, study in (
        ("r1", "rotated", "mcsgd"),
        ("r2", "rotated", "mcsgd"),
        ("p", "permuted", "mcsgd"),
        ("l", "permuted", "label"),
    ):
        trained = run(cell, benchmark=benchmark, study=study, config=f'{{"a":"{study}"}}')
        config = f'{{"ends":[["{cell}","sequential",1]]}}'
        told = run(f"of-{cell}", purpose="analysis", benchmark=benchmark, config=config)
        found = measured(f"of-{cell}")
        found["similarities"][0]["from_cell_id"] = cell
        store.commit("s", cell, {"runs": [trained, told], **found})
    for view in ("spectrum_summary", "similarity_summary"):
        found = ask(store, f"SELECT benchmark, study, seeds FROM {view} ORDER BY ALL")
        wanted = [("permuted", "label", 1), ("permuted", "mcsgd", 1), ("rotated", "mcsgd", 2)]
        assert found == wanted


def test_the_best_trials_of_each_benchmark(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    found = [
        trial(number, benchmark=benchmark, values=[value])
        for benchmark, values in (("rotated", (0.5, 0.7, 0.6)), ("permuted", (0.9, 0.2)))
        for number, value in enumerate(values)
    ]
    found.append(trial(2, benchmark="permuted", values=[0.95], state="pruned"))
    store.commit("s", "a", {"trials": found})
    assert ask(store, "SELECT benchmark, study, place, number, accuracy FROM best_trials") == [
        ("permuted", "mcsgd", 1, 0, 0.9),
        ("permuted", "mcsgd", 2, 1, 0.2),
        ("rotated", "mcsgd", 1, 1, 0.7),
        ("rotated", "mcsgd", 2, 2, 0.6),
        ("rotated", "mcsgd", 3, 0, 0.5),
    ]


def test_a_trial_forgets_as_its_seeds_do_on_average(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    runs = [
        run(cell, seed, purpose="search", forgetting=forgotten)
        for cell, seed, forgotten in (("a", 0, 0.1), ("b", 1, 0.3), ("c", 2, 0.9))
    ]
    tried = [
        trial(0, values=[0.5], cells=["a", "b"]),
        trial(1, values=[0.4], cells=["lost"]),
    ]
    store.commit("s", "a", {"runs": runs, "trials": tried})
    found = ask(store, "SELECT number, forgetting FROM best_trials")
    assert found == [(0, pytest.approx(0.2)), (1, None)]


def test_the_best_so_far_and_the_front(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    tried = [(0.5, 4), (0.7, 4), (0.6, 2), (0.6, 3), (0.9, 9), (0.7, 1)]
    found = [
        trial(number, benchmark="b", values=list(values), state="complete")
        for number, values in enumerate(tried)
    ]
    found.append(trial(6, benchmark="b", values=[0.95, 1], state="pruned"))
    found.append(trial(0, benchmark="b", values=[0.3], study="er"))
    store.commit("s", "a", {"trials": found})
    best = ask(store, "SELECT number, best FROM best_so_far WHERE study = 'mcsgd'")
    assert best == [(0, 0.5), (1, 0.7), (2, 0.7), (3, 0.7), (4, 0.9), (5, 0.9)]
    front = ask(store, "SELECT study, number, accuracy, memory FROM pareto_front")
    assert front == [("mcsgd", 5, 0.7, 1), ("mcsgd", 4, 0.9, 9)]


def test_contrasts_within_seeds(store: Store) -> None:
    with store.database() as database:
        (sheet,) = contrast_sheets(database)
    ((what, one, other, difference, _, pairs, p, _),) = sheet.rows
    differences = [0.5 - 0.125, *(0.8 * rise for rise in RISES[1:])]
    assert what == "rise of the loss on task 1: to sequential 2 - to multitask 2"
    others = [0.125, *(0.2 * rise for rise in RISES[1:])]
    assert float(one) == pytest.approx(fmean(RISES), abs=1e-3)
    assert float(other) == pytest.approx(fmean(others), abs=1e-3)
    assert float(difference) == pytest.approx(fmean(differences), abs=1e-3)
    assert pairs == "6"
    exact = paired(differences).p
    assert exact is not None
    assert float(p) == pytest.approx(holm([exact])[0], abs=1e-3)


def test_every_contrast_has_its_direction_and_is_corrected_for_all(store: Store) -> None:
    """Beside the trio's own: another initialisation, bent too, and the sharpest directions."""
    rows: dict[str, list[dict[str, Any]]] = {"runs": [], "barriers": [], "spectra": []}
    along = (0.6, 0.7, 0.8, 0.5, 0.9, 0.1)
    for seed, overlap in enumerate(along):
        told = {"purpose": "analysis", "analysis": "path", "config": "{}"}
        rows["runs"].append(run(f"o{seed}", seed, **told))
        line = barrier(f"c{seed}", ("sequential", 1), ("multitask", 2), loss_rise=2.0 + seed)
        line |= {"cell_id": f"o{seed}", "to_cell_id": f"w{seed}", "control": "other-init"}
        line |= {"from_seed": seed, "to_seed": seed}
        rows["barriers"] += [line, line | {"curve": "bezier", "loss_rise": 100.0}]
        told = {"analysis": "spectrum", "config": f'{{"ends":[["c{seed}","sequential",1]]}}'}
        rows["runs"].append(run(f"h{seed}", seed, purpose="analysis", **told))
        spectrum = measured(f"h{seed}")["spectra"][0]
        rows["spectra"].append(spectrum | {"overlap_sequential": overlap, "overlap_multitask": 0.2})
    store.commit("s", "more", rows)
    same = [0.125, *(0.2 * rise for rise in RISES[1:])]
    wanted = {
        "rise of the loss on task 1: to sequential 2 - to multitask 2": (RISES, same),
        "rise of the loss on task 1: to multitask 2 of another initialisation - of the same": (
            [2.0 + seed for seed in range(6)],
            same,
        ),
        "% of the squared way in the 1 sharpest directions: to sequential 2 - to multitask 2": (
            [100 * each**2 for each in along],
            [100 * 0.2**2] * 6,
        ),
    }
    with store.database() as database:
        (group,) = confirmed(database)
        found = contrasts(database, group)
    assert [each.what for each in found] == list(wanted)
    pairs = [[a - b for a, b in zip(one, other, strict=True)] for one, other in wanted.values()]
    tested = [paired(each).p or 0.0 for each in pairs]
    assert [each.p for each in found] == holm(tested) != tested
    for each, differences in zip(found, pairs, strict=True):
        assert each.paired.difference.mean == pytest.approx(fmean(differences))
        assert each.one - each.other == pytest.approx(fmean(differences))


def between_seeds(store: Store, seeds: int, *minima: str) -> None:
    """Lines from every seed's minimum to the next one's; aligning the first helps most."""
    rows: dict[str, list[dict[str, Any]]] = {"runs": [], "barriers": []}
    for seed in range(seeds):
        rows["runs"].append(run(f"c{seed}", seed))
    for seed in range(seeds - 1):
        told = run(f"a{seed}", None, purpose="analysis", analysis="seeds", config="{}")
        rows["runs"].append(told)
        for minimum, (control, height) in product(
            minima, (("other-seed", 1.0), ("aligned", 1.0 - 2**-seed))
        ):
            line = barrier(f"c{seed}", (minimum, 1), (minimum, 1), loss_barrier=height)
            line |= {"cell_id": f"a{seed}", "to_cell_id": f"c{seed + 1}", "control": control}
            rows["barriers"].append(line | {"from_seed": seed, "to_seed": seed + 1})
    store.commit("s", "between", rows)


@pytest.mark.parametrize(("seeds", "pairs", "tested"), [(11, 5, False), (12, 6, True)])
def test_differences_between_seeds_share_none(
    tmp_path: Path, seeds: int, pairs: int, tested: bool
) -> None:
    """Those of neighbours would be correlated, which neither test nor interval allows for."""
    store = Store(str(tmp_path))
    between_seeds(store, seeds, "sequential")
    with store.database() as database:
        (sheet,) = contrast_sheets(database)
    ((_, _, _, difference, _, counted, p, _),) = sheet.rows
    assert int(counted) == pairs
    assert float(difference) == pytest.approx(-fmean(4.0**-n for n in range(pairs)), abs=1e-3)
    assert (p == "0.031") == tested


def test_tests_that_cannot_show_anything_say_so(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    between_seeds(store, 12, "sequential", "connected")
    with store.database() as database:
        (sheet,) = contrast_sheets(database)
    assert [row[6] for row in sheet.rows] == ["0.062", "0.062"]
    assert any("none of 2 can come below p = 0.06 with 6 pairs" in note for note in sheet.notes)
