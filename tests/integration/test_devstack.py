"""The local stack with a real Kafka and a real Redis: ready, restarted, crashed, left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis.asyncio import Redis

from bitbylaw_devstack import ServerDiedError, Stack, StartError, StateInUseError
from bitbylaw_devstack.ports import HOST, free_port, is_free
from bitbylaw_devstack.process import until

pytestmark = pytest.mark.kafka

_MIB = 1024 * 1024


async def _create_topic(stack: Stack, name: str, **config: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs=config)])
    finally:
        await admin.close()


async def _append(stack: Stack, topic: str, value: bytes, *, transaction: str = "") -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=stack.kafka.bootstrap_servers,
        acks="all",
        enable_idempotence=True,
        max_request_size=25 * _MIB,
        transactional_id=transaction or None,
    ) as producer:
        if transaction:
            async with producer.transaction():
                await producer.send_and_wait(topic, value)
        else:
            await producer.send_and_wait(topic, value)


async def _values(stack: Stack, topic: str) -> list[bytes]:
    """Return all that read_committed sees from the beginning to the end."""
    partition = TopicPartition(topic, 0)
    async with AIOKafkaConsumer(
        bootstrap_servers=stack.kafka.bootstrap_servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=25 * _MIB,
        fetch_max_bytes=25 * _MIB,
    ) as consumer:
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        found = []
        while await consumer.position(partition) < end:
            batches = await consumer.getmany(timeout_ms=1000)
            found += [record.value for batch in batches.values() for record in batch]
        return found


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_record_of_24_mib_and_a_transaction_pass(stack: Stack) -> None:
    await _create_topic(stack, "large", **{"max.message.bytes": str(25 * _MIB)})
    large = os.urandom(1024) * (24 * 1024 - 1)

    await _append(stack, "large", large)
    await _append(stack, "large", b"in a transaction", transaction="owner")

    assert await _values(stack, "large") == [large, b"in a transaction"]


async def test_redis_answers_on_loopback_only_and_stores_nothing(stack: Stack) -> None:
    async with Redis.from_url(stack.redis.url) as redis:
        assert await redis.set("lock", "held", px=60_000, nx=True)
        assert (await redis.config_get("bind"))["bind"] == HOST
        assert (await redis.config_get("appendonly"))["appendonly"] == "no"
        assert (await redis.config_get("save"))["save"] == ""


@pytest.mark.parametrize("ending", ["stop", "kill"])
async def test_a_broker_comes_back_on_its_port_with_its_records(stack: Stack, ending: str) -> None:
    await _create_topic(stack, f"kept-{ending}")
    await _append(stack, f"kept-{ending}", b"before")
    address, pid = stack.kafka.bootstrap_servers, stack.kafka.pid
    assert pid is not None

    await (stack.kafka.stop() if ending == "stop" else stack.kafka.kill())
    assert stack.kafka.pid is None
    assert _gone(pid)
    assert is_free(stack.kafka.port)
    await stack.kafka.start()

    assert stack.kafka.bootstrap_servers == address
    await _append(stack, f"kept-{ending}", b"after")
    assert await _values(stack, f"kept-{ending}") == [b"before", b"after"]


async def test_redis_comes_back_on_its_port_and_empty(stack: Stack) -> None:
    url = stack.redis.url
    async with Redis.from_url(url) as redis:
        await redis.set("a", "1")

    await stack.redis.kill()
    await stack.redis.start()

    assert stack.redis.url == url
    async with Redis.from_url(url) as redis:
        assert await redis.get("a") is None


async def test_a_running_server_is_not_started_twice(stack: Stack) -> None:
    with pytest.raises(StartError, match=f"Redis runs already, as process {stack.redis.pid}"):
        await stack.redis.start()


async def test_the_description_fits_the_processes_and_json(stack: Stack) -> None:
    described = json.loads(json.dumps(stack.describe()))
    for name, server in (("kafka", stack.kafka), ("redis", stack.redis)):
        assert described[name]["port"] == server.port
        assert described[name]["pid"] == server.pid
        assert Path(described[name]["log"]).exists()
    command = Path(f"/proc/{stack.kafka.pid}/cmdline").read_bytes()
    assert b"kafka.Kafka" in command
    assert described["kafka"]["address"] == f"{HOST}:{stack.kafka.port}"
    assert set(described["seconds"]) == {"kafka", "redis"}


async def test_two_stacks_run_side_by_side_and_know_nothing_of_each_other(
    stack: Stack, tmp_path: Path
) -> None:
    await _create_topic(stack, "mine")
    await _append(stack, "mine", b"mine")
    async with Stack(tmp_path) as other:
        await _create_topic(other, "mine")
        assert await _values(other, "mine") == []
    assert await _values(stack, "mine") == [b"mine"]


async def test_a_second_start_over_the_same_state_names_the_holder(stack: Stack) -> None:
    with pytest.raises(StateInUseError, match=f"in use by process {os.getpid()}"):
        await Stack(stack.state_dir).__aenter__()
    assert stack.kafka.pid is not None
    assert stack.redis.pid is not None


async def test_what_is_kept_is_there_again_even_on_other_ports(tmp_path: Path) -> None:
    async with Stack(tmp_path, keep=True) as first:
        await _create_topic(first, "kept")
        await _append(first, "kept", b"kept")
        async with Redis.from_url(first.redis.url) as redis:
            await redis.set("kept", "1")
        ports = {first.kafka.port, first.redis.port}
    async with Stack(tmp_path, keep=True) as second:
        assert not ports & {second.kafka.port, second.redis.port}
        assert await _values(second, "kept") == [b"kept"]
        async with Redis.from_url(second.redis.url) as redis:
            assert await redis.get("kept") == b"1"


async def test_what_is_not_kept_is_wiped_before_and_after_but_logs_stay(tmp_path: Path) -> None:
    for name in ("kafka", "redis", "logs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.log").write_text("of a run that was killed")
    async with Stack(tmp_path):
        assert not (tmp_path / "kafka" / "kafka.log").exists()
        assert not (tmp_path / "redis" / "redis.log").exists()

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["lock", "logs"]
    assert "Ready to accept connections" in (tmp_path / "logs" / "redis.log").read_text()
    assert (tmp_path / "logs" / "logs.log").exists()


async def test_a_taken_port_is_named_and_nothing_stays_behind(stack: Stack, tmp_path: Path) -> None:
    taken = stack.redis.port
    with pytest.raises(StartError, match=f"Kafka cannot listen on {HOST}:{taken}"):
        await Stack(tmp_path, kafka_port=taken).__aenter__()
    async with Stack(tmp_path) as again:
        assert again.kafka.pid is not None


async def test_a_broker_that_dies_at_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    async with Stack(tmp_path) as stack:
        await stack.kafka.stop()
        meta = tmp_path / "kafka" / "data" / "meta.properties"
        meta.write_text("version=1\n")
        with pytest.raises(
            StartError, match=r"(?s)Kafka ended with exit code 1\. .*No readable meta"
        ):
            await stack.kafka.start()
        assert stack.kafka.pid is None


async def test_a_server_that_ends_by_itself_is_reported(tmp_path: Path) -> None:
    async with Stack(tmp_path) as stack:
        assert stack.redis.pid is not None
        os.kill(stack.redis.pid, signal.SIGKILL)
        with pytest.raises(ServerDiedError, match=r"(?s)Redis ended by itself.*Ready to accept"):
            await stack.watch()


def _command(state: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "bitbylaw_devstack", "--state", str(state), *words]


def _addresses(process: subprocess.Popen[str]) -> dict[str, str]:
    """Return what the command prints once both are ready."""
    assert process.stdout is not None
    lines = [process.stdout.readline().strip() for _ in range(2)]
    return dict(line.split("=", 1) for line in lines)


def _children(state: Path) -> list[int]:
    """Return the processes that work below a state folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            below = (entry / "cwd").readlink().is_relative_to(state)
        except OSError:
            continue
        if below:
            found.append(int(entry.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_however_the_owner_ends_nothing_stays_behind(
    tmp_path: Path, how: signal.Signals
) -> None:
    with subprocess.Popen(_command(tmp_path), stdout=subprocess.PIPE, text=True) as owner:
        said = _addresses(owner)
        assert set(said) == {"KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL"}
        assert len(_children(tmp_path)) == 4

        owner.send_signal(how)
        ended = time.monotonic()
        owner.wait(30)
        assert await until(lambda: not _children(tmp_path), 30)

    assert time.monotonic() - ended < 5
    assert owner.returncode == (0 if how is not signal.SIGKILL else -signal.SIGKILL)


async def test_the_state_of_a_killed_owner_is_taken_over_at_once(tmp_path: Path) -> None:
    with subprocess.Popen(_command(tmp_path, "--keep"), stdout=subprocess.PIPE, text=True) as owner:
        _addresses(owner)
        owner.kill()
    async with Stack(tmp_path, keep=True) as stack:
        assert stack.kafka.pid is not None


def test_the_command_says_in_one_line_why_it_does_not_start(stack: Stack, tmp_path: Path) -> None:
    taken = str(stack.kafka.port)
    for words, reason in (
        (_command(stack.state_dir), f"{stack.state_dir} is in use by process {os.getpid()}"),
        (_command(tmp_path, "--redis-port", taken), f"Redis cannot listen on {HOST}:{taken}"),
    ):
        found = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
        assert found.returncode == 1
        assert reason in found.stderr.splitlines()[-1]
        assert "Traceback" not in found.stderr


async def test_the_ports_asked_for_are_the_ports_served(tmp_path: Path) -> None:
    kafka_port, redis_port = free_port(), free_port()
    async with Stack(tmp_path, kafka_port=kafka_port, redis_port=redis_port) as stack:
        assert stack.kafka.bootstrap_servers == f"{HOST}:{kafka_port}"
        assert stack.redis.url == f"redis://{HOST}:{redis_port}/0"


async def test_addresses_serve_whatever_backs_them(kafka_bootstrap: str, redis_url: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap) as producer:
        assert producer.client.cluster.brokers()
    async with Redis.from_url(redis_url) as redis:
        assert await redis.ping()
