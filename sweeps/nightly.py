"""A night of seeds: is the code still as good as it was?

Trains the configuration of each method and benchmark that a sweep has confirmed again, on fresh
seeds and on three anchor seeds that are the same every night, and compares both with the nights
before. Started again on the same UTC date it finishes what is missing, or does nothing.

Exit status: 0 fine, 2 a mistake of yours, 3 regressed, 4 incomplete.
"""

try:
    from lmc_ray.sweep.nightly import main
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: install lmc-ray here (make sweep, or ray up)") from None

if __name__ == "__main__":
    main(
        seeds_per_night=5,
        window=14,  # earlier nights to compare with
        minimum_effect=1.0,  # points of accuracy
        false_alarms=0.01,  # per night
    )
