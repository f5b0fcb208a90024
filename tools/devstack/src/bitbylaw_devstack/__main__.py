"""Runs Kafka and Redis until it is told to end: `python -m bitbylaw_devstack`."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from bitbylaw_devstack import DevstackError, Progress, Stack, default_cache_dir
from bitbylaw_devstack.install import install_kafka, missing_tools


def main() -> int:
    """Return 0 when it ended as asked, 1 with a reason on standard error."""
    options = _options()
    if options.check:
        missing = missing_tools(default_cache_dir())
        for line in missing:
            print(line, file=sys.stderr)
        return 1 if missing else 0
    try:
        asyncio.run(_fetch() if options.fetch else _run(options))
    except DevstackError as refused:
        print(refused, file=sys.stderr)
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bitbylaw_devstack", description="Kafka and Redis, until Ctrl-C"
    )
    parser.add_argument(
        "--state", type=Path, default=Path(".devstack"), help="state folder (default: .devstack)"
    )
    parser.add_argument("--keep", action="store_true", help="keep what they store")
    parser.add_argument("--kafka-port", type=int, help="default: a free one")
    parser.add_argument("--redis-port", type=int, help="default: a free one")
    parser.add_argument("--check", action="store_true", help="only say which programs are missing")
    parser.add_argument("--fetch", action="store_true", help="only download what is missing")
    return parser.parse_args()


async def _fetch() -> None:
    await install_kafka(default_cache_dir(), _show)


async def _run(options: argparse.Namespace) -> None:
    """Run the stack; the first SIGINT or SIGTERM ends it in order, also while it starts."""
    running = asyncio.ensure_future(_serve(options))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    await asyncio.wait([running])
    if not running.cancelled():
        running.result()


async def _serve(options: argparse.Namespace) -> None:
    async with Stack(
        options.state,
        keep=options.keep,
        kafka_port=options.kafka_port,
        redis_port=options.redis_port,
        on_event=_show,
    ) as stack:
        print(f"KAFKA_BOOTSTRAP_SERVERS={stack.kafka.bootstrap_servers}")
        print(f"REDIS_URL={stack.redis.url}", flush=True)
        await stack.watch()


def _show(progress: Progress) -> None:
    took = "" if progress.seconds is None else f" after {progress.seconds:.1f} s"
    print(f"{progress.text}{took}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
