"""Continual learning without a memory: naive SGD beside Stable SGD.

Searches Stable SGD on validation data, confirms both on fresh seeds and test data, and measures how
far the loss of task 1 rises on the line from the first minimum to the last. Edit the ranges below,
or override them: --set learning_rate=0.01:0.2:log --set dropout=0.1
"""

try:
    from lmc_ray.sweep import Range, Study, main
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: install lmc-ray here (make sweep, or ray up)") from None

STUDIES = [
    Study(
        method="stable-sgd",
        space={
            "learning_rate": Range(0.01, 0.3, log=True),
            "lr_decay": Range(0.3, 1.0),
            "dropout": Range(0.0, 0.5),
            "batch_size": [10, 16, 32, 64],
        },
        first=[{"learning_rate": 0.1, "lr_decay": 0.8, "dropout": 0.5, "batch_size": 10}],
    ),
    # The paper's settings: searched, it would become Stable SGD.
    Study(method="naive-sgd", pinned=True),
]

if __name__ == "__main__":
    main(STUDIES, trials=20, seeds=5)
