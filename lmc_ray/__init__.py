"""lmc-ray: sweeps on Ray for the study of linear mode connectivity (Mirzadeh et al. 2021)."""

__version__ = "0.1.0"
