"""Where tests find Kafka and Redis: what is given, else Docker, else native processes."""

import socket
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from backends import choose, docker_answers

_GIVEN = {"KAFKA_BOOTSTRAP_SERVERS": "k:1", "REDIS_URL": "redis://r"}


@pytest.mark.parametrize(
    ("env", "engine", "kind", "word"),
    [
        (_GIVEN, True, "given", "KAFKA_BOOTSTRAP_SERVERS"),
        ({}, True, "docker", "a Docker engine answers"),
        ({}, False, "devstack", "no Docker engine answers"),
        ({"BBL_TEST_BACKEND": "devstack"}, True, "devstack", "BBL_TEST_BACKEND asks for it"),
        ({"REDIS_URL": "redis://r"}, False, "devstack", "Redis is given"),
        ({"KAFKA_BOOTSTRAP_SERVERS": ""}, False, "devstack", "no Docker"),
    ],
)
def test_the_backend_is_chosen_in_order_and_says_why(
    env: Mapping[str, str], engine: bool, kind: str, word: str
) -> None:
    chosen = choose(env, lambda _: engine)
    assert chosen.kind == kind
    assert word in chosen.why


def test_docker_is_not_asked_when_it_would_not_be_used() -> None:
    def asked(_: Mapping[str, str]) -> bool:
        raise AssertionError("asked without need")

    assert choose(_GIVEN, asked).kind == "given"
    assert choose({"BBL_TEST_BACKEND": "devstack"}, asked).kind == "devstack"


class _Engine(BaseHTTPRequestHandler):
    """As much of an engine as a first look needs."""

    def do_GET(self) -> None:
        body = b"OK" if self.path.endswith("/_ping") else b'{"ApiVersion": "1.45"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep silent."""


def test_an_engine_that_answers_is_one() -> None:
    with HTTPServer(("127.0.0.1", 0), _Engine) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            assert docker_answers({"DOCKER_HOST": f"tcp://127.0.0.1:{server.server_port}"})
        finally:
            server.shutdown()
            thread.join(5)


def test_an_engine_that_only_listens_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        started = time.monotonic()
        assert not docker_answers({"DOCKER_HOST": f"tcp://127.0.0.1:{mute.getsockname()[1]}"})
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:9", "tcp://192.0.2.1:2375", "ssh://far.example"])
def test_an_engine_that_is_away_or_elsewhere_is_none(host: str) -> None:
    assert not docker_answers({"DOCKER_HOST": host})
