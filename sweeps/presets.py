"""How public implementations of MC-SGD differ: each one's switches, at one configuration.

The configuration is the tuned one that ships for the benchmark, or the one below; nothing is
searched on validation data. `mcsgd` is the paper's formula, the others do as the authors' release,
CL-Gym and SequeL (PyTorch, JAX) do: see lmc_ray/learners/presets.py.
"""

try:
    from lmc_ray.sweep import Study, main
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: install lmc-ray here (make sweep, or ray up)") from None

UNTUNED = {"learning_rate": 0.1, "lr_decay": 0.9, "dropout": 0.1, "batch_size": 16}

STUDIES = [
    Study(method="mcsgd", tuned=True, space=UNTUNED),
    *(
        Study(method="mcsgd", label=name, preset=name, tuned=True, space=UNTUNED)
        for name in ("author", "cl-gym", "sequel-torch", "sequel-jax")
    ),
]

if __name__ == "__main__":
    main(STUDIES, seeds=5)
