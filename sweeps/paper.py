"""The methods of the paper's Table 1, side by side on one benchmark.

Searches every method but naive SGD on validation data, with an equal number of trials, confirms the
best of each on fresh seeds and test data, and prints ours beside the paper's numbers. Some methods
only: --method ewc --method er. More than the paper's: edit, or see sweeps/mcsgd.py.
"""

try:
    from lmc_ray.sweep import Range, Study, main
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: install lmc-ray here (make sweep, or ray up)") from None

SGD = {
    "learning_rate": Range(0.003, 0.2, log=True),
    "lr_decay": Range(0.4, 1.0),
    "dropout": Range(0.0, 0.5),
    "batch_size": [10, 32, 64],
}
PAPER = {"learning_rate": 0.1, "dropout": 0.5, "batch_size": 10}
REPLAY = {"memory_per_class": 1, "replay_batch_size": 10}

STUDIES = [
    Study(method="naive-sgd", pinned=True),  # searched, it would become Stable SGD
    Study(
        method="stable-sgd",
        space=SGD,
        first=[PAPER | {"lr_decay": 0.5}, PAPER | {"lr_decay": 0.8}],
    ),
    Study(method="ewc", space=SGD | {"ewc_strength": Range(0.1, 1_000, log=True)}),
    Study(method="agem", space=SGD | REPLAY),
    Study(method="er", space=SGD | REPLAY | {"replay_memory": ["reservoir", "ring"]}),
    Study(
        method="mcsgd",
        space=SGD
        | {
            "memory_per_class": 1,
            "connect_learning_rate": Range(0.005, 0.2, log=True),
            "connect_steps": [25, 50, 100],
            "line_samples": [3, 5, 10],
            "init_position": Range(0.02, 0.9, log=True),
        },
    ),
    Study(method="multitask", space=SGD),
]

if __name__ == "__main__":
    main(STUDIES, trials=20, seeds=5)
