"""Numbers for operators, in the Prometheus text form: counts, times and ages, nothing of any item or caller."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Latency:
    """A histogram of request durations for each (method, route, status class).

    The route is its template, never the path, so that no id can become a label and the number of series is bounded.
    """

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, int], list[float]] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request of `seconds` was answered with `status`."""
        key = (method, route, status // 100)
        cells = self._series.get(key)
        if cells is None:
            cells = self._series.setdefault(key, [0.0] * (len(BUCKETS_S) + 2))
        cells[bisect_left(BUCKETS_S, seconds)] += 1
        cells[-1] += seconds

    def lines(self) -> Iterable[str]:
        """The histogram as lines of the text form."""
        name = "evidence_http_request_duration_seconds"
        yield f"# HELP {name} Time from the first byte of a request to the end of its answer."
        yield f"# TYPE {name} histogram"
        for (method, route, status), cells in sorted(self._series.items()):
            labels = f'method="{method}",route="{route}",status="{status}xx"'
            total = 0
            for bound, count in zip(BUCKETS_S, cells, strict=False):
                total += int(count)
                yield f'{name}_bucket{{{labels},le="{bound:g}"}} {total}'
            total += int(cells[len(BUCKETS_S)])
            yield f'{name}_bucket{{{labels},le="+Inf"}} {total}'
            yield f"{name}_sum{{{labels}}} {cells[-1]:.6f}"
            yield f"{name}_count{{{labels}}} {total}"


def gauge(name: str, help_text: str, values: Mapping[str, float], *, label: str | None = None) -> Iterable[str]:
    """A gauge as lines of the text form: one value under the key "" without a label, else one per value of `label`."""
    yield f"# HELP {name} {help_text}"
    yield f"# TYPE {name} gauge"
    for key, value in values.items():
        where = "" if label is None else f'{{{label}="{key}"}}'
        yield f"{name}{where} {value:.15g}"
