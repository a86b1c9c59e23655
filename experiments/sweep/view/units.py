"""Numbers, times and rates as people say them."""

from __future__ import annotations

from datetime import datetime

MINUTE, HOUR, DAY = 60, 3600, 86400


def duration(seconds: float) -> str:
    """A length of time, to two figures or so.

    >>> [duration(s) for s in (0.2, 45, 754, 12000, 200000)]
    ['0.2 s', '45 s', '13 min', '3 h 20 min', '2 d 8 h']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < MINUTE - 0.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / MINUTE)
    if minutes < 60:
        return f"{minutes} min"
    if seconds < DAY:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / HOUR)
    return f"{hours // 24} d {hours % 24} h"


def several(count: int, noun: str) -> str:
    """So many of something.

    >>> several(1, "cell"), several(2880, "cell")
    ('1 cell', '2,880 cells')
    """
    return f"{count:,} {noun}" + "s" * (count != 1)


def stopwatch(seconds: float) -> str:
    """A time that runs.

    >>> [stopwatch(s) for s in (5.7, 83, 3725)]
    ['0:05', '1:23', '1:02:05']
    """
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def rate(cells_per_minute: float) -> str:
    """A rate, in cells a minute or, where those are few, an hour.

    >>> rate(312.4), rate(2.25), rate(0.2)
    ('312 cells/min', '2.2 cells/min', '12 cells/h')
    """
    if cells_per_minute >= 10:
        return f"{cells_per_minute:,.0f} cells/min"
    if cells_per_minute >= 1:
        return f"{cells_per_minute:.1f} cells/min"
    return f"{60 * cells_per_minute:.2g} cells/h"


def clock(when: datetime, now: datetime) -> str:
    """A time of day, with its day where that is not today.

    >>> now = datetime(2025, 3, 7, 22, 10)
    >>> clock(datetime(2025, 3, 7, 23, 5), now), clock(datetime(2025, 3, 8, 1, 30), now)
    ('23:05', 'Sat 01:30')
    >>> clock(datetime(2025, 3, 20, 1, 30), now)
    '2025-03-20 01:30'
    """
    if when.date() == now.date():
        return f"{when:%H:%M}"
    if 0 < (when.date() - now.date()).days < 7:
        return f"{when:%a %H:%M}"
    return f"{when:%Y-%m-%d %H:%M}"
