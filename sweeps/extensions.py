"""Three learners that the paper does not have, beside ER and MC-SGD at the same memory.

ER inside MC-SGD (`er-mcsgd`: SGD on a task replays the memory that the connection uses), averaging
the weights before and after a task, and an exponential moving average of the steps of SGD. Searched
on validation data, confirmed on fresh seeds and test data.
"""

try:
    from lmc_ray.sweep import Range, Study, main
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: install lmc-ray here (make sweep, or ray up)") from None

SGD = {
    "learning_rate": Range(0.003, 0.3, log=True),
    "lr_decay": Range(0.4, 1.0),
    "batch_size": [16, 32, 64],
}
REPLAY = {"memory_per_class": 1, "replay_batch_size": 10}
CONNECT = {
    "memory_per_class": 1,
    "connect_learning_rate": Range(0.005, 0.2, log=True),
    "connect_steps": 25,
    "line_samples": 3,
    "init_position": Range(0.02, 0.9, log=True),
}


def studies(benchmark: str) -> list[Study]:
    """What is searched on a benchmark."""
    if "cifar" in benchmark:  # its ResNet has no dropout, and normalises over batches of one task
        sgd, connect = SGD, CONNECT | {"connect_batches": "by_task", "connect_batch_size": 32}
    else:
        sgd, connect = SGD | {"dropout": Range(0.0, 0.6)}, CONNECT
    return [
        Study(method="er", space=sgd | REPLAY | {"replay_memory": ["reservoir", "ring"]}),
        Study(method="mcsgd", space=sgd | connect),
        Study(method="er-mcsgd", space=sgd | connect | REPLAY),
        Study(method="weight-averaging", space=sgd | {"average_position": Range(0.1, 1.0)}),
        Study(method="ema", space=sgd | {"ema_decay": [0.9, 0.99, 0.999, 0.9999]}),
    ]


if __name__ == "__main__":
    main(studies, trials=20, seeds=5)
