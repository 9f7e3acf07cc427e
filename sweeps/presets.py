"""How public implementations of MC-SGD differ: each one's switches, at one configuration.

The configuration is the one that ships for the formula on the benchmark (for --network if that has
one of its own, else for the usual network), or the one below; nothing is searched on validation
data. `mcsgd` is the paper's formula, the others do as the authors' release, CL-Gym and SequeL
(PyTorch, JAX) do: see lmc_ray/learners/presets.py.
"""

try:
    from lmc_ray.sweep import Study, main, tuned
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: install lmc-ray here (make sweep, or ray up)") from None

UNTUNED = {"learning_rate": 0.1, "lr_decay": 0.9, "dropout": 0.1, "batch_size": 16}

PRESETS = ("author", "cl-gym", "sequel-torch", "sequel-jax")


def studies(benchmark: str, network: str | None) -> list[Study]:
    """The formula on a benchmark, and each implementation of it."""
    ships = [
        tuned(benchmark, name, where) for where in (network, None) for name in ("formula", "mcsgd")
    ]
    # What was tuned for other weights along the path is no configuration of the formula.
    exact = (each for each in ships if each and each.get("path_weight", "exact") == "exact")
    space = next(exact, UNTUNED)
    others = [Study(method="mcsgd", label=name, preset=name, space=space) for name in PRESETS]
    return [Study(method="mcsgd", space=space), *others]


if __name__ == "__main__":
    main(studies, seeds=5)
