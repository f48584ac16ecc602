"""What Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from lorgnette.web.jobs import Job

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """Counts jobs as they end.

    Args:
        counts: what waits, runs and is stored, by name, just now.
    """

    def __init__(self, counts: Callable[[], dict[str, int]]):
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._jobs = Counter("lorgnette_jobs", "Jobs that are over.", ["verb", "state"], registry=self._registry)
        about = "Seconds from a job's beginning to its end."
        self._seconds = Histogram("lorgnette_job_seconds", about, ["verb"], buckets=SECONDS, registry=self._registry)
        about = "Seconds that a job waited for its turn."
        self._waited = Histogram("lorgnette_wait_seconds", about, ["verb"], buckets=SECONDS, registry=self._registry)
        for name in counts():
            gauge = Gauge(f"lorgnette_{name}", f"{name.replace('_', ' ')}, just now.", registry=self._registry)
            gauge.set_function(lambda name=name: counts()[name])

    def over(self, job: Job) -> None:
        """A job is over."""
        self._jobs.labels(job.verb, job.state).inc()
        if job.started is not None:
            self._seconds.labels(job.verb).observe(job.ended - job.started)
            self._waited.labels(job.verb).observe(job.started - job.created)

    def text(self) -> bytes:
        """In Prometheus' own format."""
        return generate_latest(self._registry)
