"""What the server counts, for Prometheus; every server has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 32)


class Metrics:
    """Counters and histograms of one server.

    Args:
        depth: Gives how many pictures wait now.
        held: Gives how many bytes of pictures are held now.
    """

    def __init__(self, depth: Callable[[], float], held: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "gapcam_requests", "Answers.", ("route", "status"), registry=self.registry
        )
        self.open = Gauge(
            "gapcam_open_requests", "Requests that have no answer yet.", registry=self.registry
        )
        self.pictures = Counter(
            "gapcam_pictures", "Pictures, by outcome.", ("outcome",), registry=self.registry
        )
        self.batch = Histogram(
            "gapcam_batch_pictures", "Pictures a batch.", buckets=BATCHES, registry=self.registry
        )
        self.stages = Histogram(
            "gapcam_stage_seconds",
            "Seconds by stage: receive and wait of a request's pictures; read, run (network, maps "
            "and boxes) and write (JSON) of a batch; answer of a whole request.",
            ("stage",),
            buckets=SECONDS,
            registry=self.registry,
        )
        Gauge("gapcam_queue_pictures", "Pictures that wait.", registry=self.registry).set_function(
            depth
        )
        Gauge("gapcam_held_bytes", "Bytes of pictures held.", registry=self.registry).set_function(
            held
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        start = perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(perf_counter() - start)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
