"""MC-SGD beside naive SGD, Stable SGD and multitask: search, confirm, connectivity.

Searches each method on validation data, confirms the best of each on fresh seeds and test data, and
measures the linear paths between the minima of each seed. Edit the ranges below, or override them:
--set learning_rate=0.01:0.2:log --set line_samples=3,5,10 --set dropout=0.1
"""

try:
    from lmc_ray.sweep import Range, Study, main
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: install lmc-ray here (make sweep, or ray up)") from None

STUDIES = [
    Study(
        method="mcsgd",
        space={
            "memory_per_class": 1,  # examples of each class of each task, as in the paper
            "learning_rate": Range(0.02, 0.2, log=True),
            "lr_decay": Range(0.5, 1.0),
            "dropout": Range(0.0, 0.5),
            "batch_size": [16, 32, 64],
            "connect_learning_rate": Range(0.005, 0.2, log=True),
            "connect_steps": [25, 50, 100],
            "line_samples": [3, 5, 10],
            "init_position": Range(0.02, 0.9, log=True),
            "continue_from": ["connected", "sequential"],
        },
        first=[
            {  # found by rough trials on validation data of rotated MNIST
                "learning_rate": 0.1,
                "lr_decay": 0.7,
                "dropout": 0.1,
                "batch_size": 32,
                "connect_learning_rate": 0.08,
                "connect_steps": 50,
                "line_samples": 3,
                "init_position": 0.66,
                "continue_from": "sequential",
            }
        ],
    ),
    Study(
        method="stable-sgd",
        trials=10,  # at most: four hyperparameters need fewer trials than MC-SGD's nine
        space={
            "learning_rate": Range(0.02, 0.2, log=True),
            "lr_decay": Range(0.3, 1.0),
            "dropout": Range(0.0, 0.5),
            "batch_size": [10, 32, 64],
        },
        # The paper's, on rotated MNIST.
        first=[{"learning_rate": 0.1, "lr_decay": 0.5, "dropout": 0.5, "batch_size": 10}],
    ),
    Study(
        method="multitask",
        trials=2,  # at most: an upper bound and no competitor
        space={
            "learning_rate": Range(0.02, 0.2, log=True),
            "dropout": Range(0.0, 0.5),
            "batch_size": [16, 32, 64],
        },
    ),
    # The paper's settings: searched, it would become Stable SGD.
    Study(method="naive-sgd", pinned=True),
]

if __name__ == "__main__":
    main(STUDIES, trials=10, seeds=5)
