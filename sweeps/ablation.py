"""What makes MC-SGD work: its switches, one changed at a time.

Starts from the tuned configuration that ships for the benchmark (for --network if that has one of
its own, else for the usual network), and from the one below for what that leaves open. Each study
changes one switch and searches the connect learning rate again on validation data, since a switch
may change the scale of the gradient; `mcsgd` changes none. All else stays as it was tuned.
"""

try:
    from lmc_ray.sweep import Range, Study, main, tuned
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: install lmc-ray here (make sweep, or ray up)") from None

UNTUNED = {
    "path_weight": "exact",
    "continue_from": "connected",
    "memory_per_class": 1,
    "learning_rate": 0.1,
    "lr_decay": 0.9,
    "dropout": 0.1,
    "batch_size": 16,
    "connect_steps": 25,
    "line_samples": 3,
    "init_position": 0.15,
}
SEARCHED = {"connect_learning_rate": Range(0.0005, 0.3, log=True)}
SWITCHES = {
    "path_weight": ["exact", "uniform", "cumulative", "carried"],
    "continue_from": ["connected", "sequential"],
    "init_position": [0.0, 0.5, 1.0],
    "line_samples": [1, 3, 10],
    "connect_steps": [10, 25, 50, 100],
    "memory_per_class": [1, 2, 5, 10],
}


def studies(benchmark: str, network: str | None) -> list[Study]:
    """MC-SGD as it is tuned on a benchmark, and with each switch otherwise."""
    space = UNTUNED | (tuned(benchmark, "mcsgd", network) or {}) | SEARCHED
    changed = [
        Study(method="mcsgd", label=f"{switch}-{value}", space=space | {switch: value}, paths=False)
        for switch, values in SWITCHES.items()
        for value in values
        if value != space[switch]
    ]
    return [Study(method="mcsgd", space=space, paths=False), *changed]


if __name__ == "__main__":
    main(studies, trials=12, seeds=5, rerank=0)  # one rate to find: the best of 12 is near enough
