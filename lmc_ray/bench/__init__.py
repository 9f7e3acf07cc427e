"""How fast this machine trains, beside its own peaks and beside plain loops; what fits into it."""
