"""How much of the engine's throughput is left behind HTTP, and how long does an answer take?

    python benchmarks/serving.py [--quick]

A server process and a client process (this one, with a thread and a connection a client) share the
cores of one machine; the client sends prepared bytes and parses nothing but lengths, and its share
of the cores is measured. What is compared runs in turn within one run: the engine alone (in this
process: pictures from the same bytes to the same boxes, on as many threads as the server has
workers, at its best batch) and the server at 1, 8 and 32 clients. Ratios are medians of the
rounds' pairs. CPU seconds a picture are counted besides: they depend less on who else uses the
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

import gapcam
from gapcam.engines.onnx import OnnxEngine

RESULTS = Path(__file__).parent / "results" / "serving.json"
CLIENTS = (1, 8, 32)
BATCHES = (1, 2, 4, 8, 16)
ROUNDS = 12
SECONDS = 2.0
FLAT_REQUESTS = 10_000
ALONE = 64
"""Pictures that the engine alone is timed on, a batch size and round."""
TICKS = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1


class Server:
    """A `gapcam serve` process."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "gapcam", "serve", "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        found = None
        while found is None:
            line = self.process.stderr.readline()
            if not line:
                raise SystemExit("the server did not start")
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        self.port = int(found[1])

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_mb(self) -> float:
        """Memory held now."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", text)
        assert found is not None
        return int(found[1]) / 1024


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    server = Server(*options)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(60)


class Client:
    """One connection that is kept; sends prepared requests."""

    def __init__(self, port: int) -> None:
        self.line = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> int:
        """The status of the answer, once all of it is there."""
        self.line.sendall(request)
        got = b""
        while b"\r\n\r\n" not in got:
            got += self._more()
        head, _, body = got.partition(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head)
        assert found is not None
        left = int(found[1]) - len(body)
        while left > 0:
            left -= len(self._more())
        return int(head[9:12])

    def _more(self) -> bytes:
        part = self.line.recv(1 << 16)
        if not part:
            raise ConnectionError("the server closed the connection")
        return part


def request(picture: bytes, query: str) -> bytes:
    head = (
        f"POST /v1/localize?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {len(picture)}\r\n\r\n"
    )
    return head.encode() + picture


@dataclass
class Load:
    """What many clients saw."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    client_cpu_s: float = 0.0
    server_cpu_s: float = 0.0

    @property
    def per_s(self) -> float:
        """Pictures localized a second."""
        return self.statuses[200] / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """So many percent of the answers took no longer."""
        return 1e3 * float(np.percentile(self.waits, percent))


def load(
    server: Server,
    requests: Sequence[bytes],
    clients: int,
    *,
    seconds: float = np.inf,
    count: float = np.inf,
    pause_s: float = 0.0,
) -> Load:
    """Every client sends one request after another, for some seconds or some requests in all."""
    found = Load()
    numbers = iter(range(10**9))
    began = time.perf_counter()
    client_cpu, server_cpu = time.process_time(), server.cpu_s()

    def run(first: int) -> None:
        client = Client(server.port)
        for body in islice(cycle(requests), first % len(requests), None):
            if time.perf_counter() - began > seconds or next(numbers) >= count:
                break
            sent = time.perf_counter()
            status = client.send(body)
            found.statuses[status] += 1
            if status == 200:
                found.waits.append(time.perf_counter() - sent)
            else:
                time.sleep(pause_s)
        client.line.close()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(run, range(clients)))
    found.seconds = time.perf_counter() - began
    found.client_cpu_s = time.process_time() - client_cpu
    found.server_cpu_s = server.cpu_s() - server_cpu
    return found


def alone(
    localizer: gapcam.Localizer, pictures: Sequence[bytes], batch: int
) -> tuple[float, float]:
    """Pictures a second from bytes to boxes on every core, and CPU seconds a picture."""
    batches = max(2 * CORES, ALONE // batch)
    work = [list(islice(cycle(pictures), i, i + batch)) for i in range(batches)]
    with ThreadPoolExecutor(CORES) as pool:
        start, cpu = time.perf_counter(), time.process_time()
        list(pool.map(lambda part: localizer.localize_readable(part, 5), work))
        seconds, used = time.perf_counter() - start, time.process_time() - cpu
    count = batch * batches
    return count / seconds, used / count


def forward(localizer: gapcam.Localizer, pictures: Sequence[bytes], batch: int) -> float:
    """Pictures a second through the plain network, decoded beforehand, on every core."""
    engine = localizer.engine
    assert isinstance(engine, OnnxEngine)
    pixels = np.stack([localizer.read(p).pixels for p in islice(cycle(pictures), batch)])
    batches = max(2 * CORES, ALONE // batch)
    with ThreadPoolExecutor(CORES) as pool:
        start = time.perf_counter()
        list(pool.map(lambda _: engine.run_logits(pixels), range(batches)))
        return batch * batches / (time.perf_counter() - start)


def throughput(rounds: int, seconds: float) -> dict[str, Any]:
    """Short slices in turn, so that whatever else the machine does falls on all alike."""
    localizer = gapcam.load(threads=1)
    pictures = [path.read_bytes() for path in gapcam.sample_pictures()]
    requests = [request(picture, "top=5") for picture in pictures]
    alone(localizer, pictures, 8)
    sweep = [[alone(localizer, pictures, b)[0] for b in BATCHES] for _ in range(rounds)]
    best = BATCHES[int(np.median(sweep, axis=0).argmax())]
    plain = [forward(localizer, pictures, best) for _ in range(rounds)]
    pairs: dict[int, list[tuple[float, float, Load]]] = {clients: [] for clients in CLIENTS}
    with serving() as server:
        load(server, requests, 8, seconds=2)
        for _ in range(rounds):
            for clients in CLIENTS:
                engine = alone(localizer, pictures, best)
                pairs[clients].append((*engine, load(server, requests, clients, seconds=seconds)))
    rates = np.median(sweep, axis=0).tolist()
    return {
        "engine_alone_pictures_per_s": {str(b): r for b, r in zip(BATCHES, rates, strict=True)},
        "engine_alone_best_batch": best,
        "plain_forward_decoded_pictures_per_s": float(np.median(plain)),
        "clients": {str(clients): _shown(pairs[clients]) for clients in CLIENTS},
    }


def _shown(pairs: Sequence[tuple[float, float, Load]]) -> dict[str, Any]:
    loads = [one for _, _, one in pairs]
    engine = np.array([rate for rate, _, _ in pairs])
    rates = np.array([one.per_s for one in loads])
    done = sum(one.statuses[200] for one in loads)
    server_cpu = sum(one.server_cpu_s for one in loads) / done
    client_cpu = sum(one.client_cpu_s for one in loads) / done
    engine_cpu = float(np.median([used for _, used, _ in pairs]))
    waits = Load(waits=[wait for one in loads for wait in one.waits])
    return {
        "pictures_per_s": float(np.median(rates)),
        "engine_alone_beside_it": float(np.median(engine)),
        "over_engine_alone": float(np.median(rates / engine)),
        "over_engine_alone_quartiles": np.quantile(rates / engine, (0.25, 0.75)).tolist(),
        "p50_ms": waits.percentile_ms(50),
        "p95_ms": waits.percentile_ms(95),
        "p99_ms": waits.percentile_ms(99),
        "engine_cpu_ms_per_picture": 1e3 * engine_cpu,
        "server_cpu_ms_per_picture": 1e3 * server_cpu,
        "client_cpu_ms_per_picture": 1e3 * client_cpu,
        "not_answered_with_200": sum(one.statuses.total() - one.statuses[200] for one in loads),
    }


def overload(seconds: float) -> dict[str, Any]:
    """Twice as many clients as the queue and the workers have room for."""
    pictures = [request(path.read_bytes(), "top=5") for path in gapcam.sample_pictures()]
    queue, batch = 16, 4
    clients = 2 * (queue + batch * CORES)
    with serving("--queue", str(queue), "--batch", str(batch)) as server:
        usual = load(server, pictures, 8, seconds=seconds)
        found = load(server, pictures, clients, seconds=seconds, pause_s=0.1)
    return {
        "queue": queue,
        "clients": clients,
        "statuses": {str(key): value for key, value in found.statuses.items()},
        "pictures_per_s": found.per_s,
        "over_usual_load": found.per_s / usual.per_s,
        "p50_ms": found.percentile_ms(50),
        "p99_ms": found.percentile_ms(99),
        "slowest_ms": found.percentile_ms(100),
    }


def memory(count: int) -> dict[str, Any]:
    """Resident memory while many requests pass."""
    requests = []
    for seed in range(20):
        noise = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
        out = BytesIO()
        Image.fromarray(noise).save(out, "JPEG")
        requests.append(request(out.getvalue(), "top=5" if seed % 5 else "maps=all"))
    steps = 10
    with serving("--recipe", "fast") as server:
        started = server.resident_mb()
        held, failed = [], 0
        for _ in range(steps):
            found = load(server, requests, 16, count=count // steps)
            failed += found.statuses.total() - found.statuses[200]
            held.append(round(server.resident_mb(), 1))
    return {
        "requests": count,
        "failed": failed,
        "resident_mb_at_start": started,
        f"resident_mb_after_each_{count // steps}": held,
    }


def first_sight() -> dict[str, float]:
    """From the cat's bytes to its boxes and everything that the page shows."""
    cat = next(path for path in gapcam.sample_pictures() if path.name == "cat.jpg").read_bytes()
    start = time.perf_counter()
    with serving() as server:
        ready = time.perf_counter() - start
        client = Client(server.port)
        waits = []
        for _ in range(30):
            sent = time.perf_counter()
            assert client.send(request(cat, "top=5&maps=all")) == 200
            waits.append(1e3 * (time.perf_counter() - sent))
        client.line.close()
    return {
        "start_of_the_server_s": ready,
        "first_answer_ms": waits[0],
        "median_answer_ms": float(np.median(waits[1:])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure gapcam serve.")
    parser.add_argument("--quick", action="store_true", help="a short look; writes nothing")
    parser.add_argument("--only", choices=("throughput", "overload", "cat", "memory"))
    asked = parser.parse_args()
    rounds, seconds, count = (2, 1.0, 300) if asked.quick else (ROUNDS, SECONDS, FLAT_REQUESTS)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "throughput": lambda: throughput(rounds, seconds),
        "overload": lambda: overload(3 * seconds),
        "cat": first_sight,
        "memory": lambda: memory(count),
    }
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    found |= {
        "machine": f"{platform.machine()}, {CORES} cores",
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }
    for name, part in parts.items():
        if asked.only in (None, name):
            others = os.getloadavg()[0]
            found[name] = {"load_average_at_start": others, **part()}
    text = json.dumps(found, indent=2)
    if not asked.quick:
        RESULTS.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
