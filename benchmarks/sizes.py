"""How much each row does: in full, or just enough to see that it works."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each row does.

    Attributes:
        repeats: how often each side has its turn.
        *_seconds: how long posts are sent; `warm_seconds` before that are not counted.
        kills: how often the process is killed.
    """

    repeats: int = 3
    ingest_seconds: float = 5.0
    warm_seconds: float = 1.5
    connections: int = 32
    lanes_records: int = 10_000
    lanes_keys: tuple[int, ...] = (1_000, 20, 1)
    skewed_records: int = 5_000
    skewed_keys: int = 1_000
    skewed_sleep_ms: int = 50
    latency_rate: int = 500
    latency_seconds: float = 10.0
    proxy_rate: int = 500
    proxy_seconds: float = 10.0
    killed_records: int = 6_000
    kills: int = 3
    limit_seconds: float = 180.0


FULL = Sizes()
TINY = Sizes(
    repeats=1,
    ingest_seconds=0.5,
    warm_seconds=0.2,
    connections=4,
    lanes_records=150,
    lanes_keys=(10,),
    skewed_records=100,
    skewed_keys=30,
    skewed_sleep_ms=5,
    latency_rate=50,
    latency_seconds=1.0,
    proxy_rate=50,
    proxy_seconds=1.0,
    killed_records=300,
    kills=1,
    limit_seconds=60.0,
)
