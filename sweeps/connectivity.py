"""Linear mode connectivity across seeds: trios, their minima, and everything measured between them.

Trains MC-SGD as trios (w_sequential, w_multitask and w_connected of a seed share their w_0), and
multitask training from another w_0 as a control, without a search: at the tuned configuration that
ships for the benchmark, or at the one below. Keeps their minima and measures the paths, planes,
spectra and similarities between them. A new measurement of old minima trains nothing.
"""

try:
    from lmc_ray.sweep import Connectivity, Study, main
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: install lmc-ray here (make sweep, or ray up)") from None

SGD = {"learning_rate": 0.1, "lr_decay": 0.8, "dropout": 0.2, "batch_size": 16}

STUDIES = [
    Study(method="mcsgd", tuned=True, space=SGD),
    Study(
        method="multitask",
        control="mcsgd",
        space={"multitask_schedule": "growing", "initialisation": 1},
    ),
]


def measured(benchmark: str) -> Connectivity:
    """How the minima are measured; see `Connectivity` for what else there is to choose."""
    # A product with the Hessian of CIFAR's ResNet takes far longer than with an MLP's.
    return Connectivity(spectrum_examples=500) if "cifar" in benchmark else Connectivity()


if __name__ == "__main__":
    main(STUDIES, seeds=5, keep_minima="all", connectivity=measured)
