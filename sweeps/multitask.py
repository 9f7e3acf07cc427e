"""Multitask learning, the upper bound: all tasks together, or one more at a time.

Searches on validation data and confirms on fresh seeds and test data. Edit the ranges below, or
override them: --set multitask_schedule=growing --set examples_per_task=5000
"""

try:
    from lmc_ray.sweep import Range, Study, main
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: install lmc-ray here (make sweep, or ray up)") from None

STUDIES = [
    Study(
        method="multitask",
        space={
            "multitask_schedule": "joint",
            "learning_rate": Range(0.01, 0.3, log=True),
            "lr_decay": Range(0.8, 1.0),
            "dropout": Range(0.0, 0.5),
            "batch_size": [10, 16, 32, 64],
        },
    ),
]

if __name__ == "__main__":
    main(STUDIES, trials=20, seeds=5)
