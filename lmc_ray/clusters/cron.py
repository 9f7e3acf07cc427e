"""Checks when a CronJob runs, as Kubernetes reads it."""

import re
from zoneinfo import available_timezones

from lmc_ray.clusters.document import nearest

_FIELDS = (
    ("minute", 0, 59, ""),
    ("hour", 0, 23, ""),
    ("day", 1, 31, ""),
    ("month", 1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"),
    ("weekday", 0, 6, "sun mon tue wed thu fri sat"),
)
_SHORT = re.compile(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly|every \S+)")
_PART = re.compile(r"(?:[*?]|(\w+)(?:-(\w+))?)(?:/0*[1-9]\d*)?")


def wrong_schedule(schedule: str) -> str:
    """What is wrong with a schedule; empty if it is right."""
    fields = schedule.split()
    if _SHORT.fullmatch(schedule):
        return ""
    if len(fields) != len(_FIELDS):
        return f"schedule '{schedule}': five fields, as in cron"
    for field, (name, low, high, words) in zip(fields, _FIELDS, strict=True):
        known = {str(number): number for number in range(low, high + 1)}
        known |= {word: low + index for index, word in enumerate(words.split())}
        for part in field.lower().split(","):
            found = _PART.fullmatch(part)
            ends = [end.lstrip("0") or "0" for end in found.groups() if end] if found else [""]
            numbers = [known.get(end, -1) for end in ends]
            if -1 in numbers or numbers != sorted(numbers):
                return f"schedule '{schedule}': {name} '{part}' is not within {low}-{high}"
    return ""


def wrong_zone(zone: str) -> str:
    """What is wrong with a time zone; empty if it is right, or if this machine knows none."""
    zones = available_timezones()
    return "" if zone in zones or not zones else f"timeZone: unknown '{zone}'{nearest(zone, zones)}"
