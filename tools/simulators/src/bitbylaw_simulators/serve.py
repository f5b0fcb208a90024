"""`bitbylaw-simulators`: the simulators as servers, until a signal ends them."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from bitbylaw_simulators.advoware import Advoware, AdvowareQuirks
from bitbylaw_simulators.advoware.samples import sample_firm
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.contents import Contents
from bitbylaw_simulators.espocrm import EspoCRM, EspoQuirks
from bitbylaw_simulators.http import SimServer
from bitbylaw_simulators.pump import Pump
from bitbylaw_simulators.quirks import switched
from bitbylaw_simulators.samples import sample_world
from bitbylaw_simulators.simulator import Simulator
from bitbylaw_simulators.xai import Xai, XaiQuirks

STORE_SECONDS = 0.5
"""How often a changed state is written, so that a kill loses little."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="bitbylaw-simulators",
        description="EspoCRM, xAI and Advoware as they behave, on loopback. Ends on SIGTERM or SIGINT.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to listen")
    parser.add_argument("--espocrm-port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--xai-port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--advoware-port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--state-dir", type=Path, help="keep state and contents over restarts")
    parser.add_argument("--webhook-base", help="register the nine webhooks at this address")
    parser.add_argument("--empty", action="store_true", help="begin without the sample world")
    parser.add_argument("--seed", type=int, default=0, help="of ids and secrets")
    parser.add_argument(
        "--quirk",
        action="append",
        default=[],
        metavar="SYSTEM.NAME=JSON",
        help="switch a quirk: espocrm.delivery_seconds=0.2",
    )
    return parser.parse_args(argv)


class Kept:
    """The state of one simulator in one file, if a folder is given.

    Args:
        simulator: whose state.
        folder: where; None keeps nothing.
    """

    def __init__(self, simulator: Simulator, folder: Path | None) -> None:
        self._simulator = simulator
        self._path = folder / f"{simulator.name}.json" if folder else None
        self._stored = -1

    def load(self) -> bool:
        """Take up the stored state; return whether there was one."""
        if self._path is None or not self._path.exists():
            return False
        self._simulator.load(json.loads(self._path.read_text("utf-8")))
        self._stored = self._simulator.changes
        return True

    async def run(self) -> None:
        """Store what changed, again and again, until cancelled."""
        while True:
            await asyncio.sleep(STORE_SECONDS)
            await self.store()

    async def store(self) -> None:
        """Store the state if it changed."""
        if self._path is None or self._stored == self._simulator.changes:
            return
        changes, state = self._simulator.changes, self._simulator.state()
        await asyncio.to_thread(_write, self._path, state)
        self._stored = changes


def _write(path: Path, state: dict[str, Any]) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(state), "utf-8")
    draft.replace(path)


async def serve(options: argparse.Namespace, *, stop: asyncio.Event) -> None:
    """Run all servers until `stop`; print their addresses as one JSON line once they listen.

    Raises:
        OSError: a port is taken.
        ValueError: a quirk is unknown.
    """
    if options.state_dir is not None:
        await _serve(options, options.state_dir, options.state_dir, stop)
        return
    with TemporaryDirectory(prefix="bitbylaw-sim-") as folder:
        await _serve(options, None, Path(folder), stop)


async def _serve(
    options: argparse.Namespace, folder: Path | None, contents: Path, stop: asyncio.Event
) -> None:
    quirks = _quirks(options.quirk)
    espocrm = EspoCRM(
        SimClock.real(),
        contents=Contents(contents / "espocrm-contents"),
        quirks=switched(EspoQuirks(), quirks["espocrm"]),
        seed=options.seed,
    )
    xai = Xai(
        SimClock.real(),
        contents=Contents(contents / "xai-contents"),
        quirks=switched(XaiQuirks(), quirks["xai"]),
        seed=options.seed,
    )
    advoware = Advoware(
        SimClock.real(),
        quirks=switched(AdvowareQuirks(), quirks["advoware"]),
        seed=options.seed,
    )
    kept = [Kept(espocrm, folder), Kept(xai, folder)]
    known = [entry.load() for entry in kept]
    if not any(known) and not options.empty:
        sample_world(espocrm, xai, webhook_base=options.webhook_base, announced=True)
    kept.append(Kept(advoware, folder))
    if not kept[-1].load() and not options.empty:
        sample_firm(advoware)
    async with AsyncExitStack() as stack:
        left = await stack.enter_async_context(
            SimServer(espocrm, host=options.host, port=options.espocrm_port)
        )
        right = await stack.enter_async_context(
            SimServer(xai, host=options.host, port=options.xai_port)
        )
        third = await stack.enter_async_context(
            SimServer(advoware, host=options.host, port=options.advoware_port)
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        tasks = [asyncio.create_task(Pump(espocrm, session).run())]
        tasks += [asyncio.create_task(entry.run()) for entry in kept]
        print(json.dumps(addresses(left, right, third)), flush=True)  # noqa: T201 - whoever started us reads it
        ended = asyncio.create_task(stop.wait())
        await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in [ended, *tasks]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for entry in kept:
            await entry.store()
    for result in results:
        if isinstance(result, Exception):
            raise result


def addresses(espocrm: SimServer, xai: SimServer, advoware: SimServer) -> dict[str, Any]:
    """Return what the first line of output tells: addresses, keys, control faces, our pid."""
    crm, other, third = espocrm.simulator, xai.simulator, advoware.simulator
    keys: dict[str, Any] = {}
    if isinstance(crm, EspoCRM) and isinstance(other, Xai) and isinstance(third, Advoware):
        secrets = {row["id"]: row["secretKey"] for row in crm.records("Webhook")}
        user, password = next(iter(third.firm.passwords.items()))
        keys = {
            "espocrm_api_key": crm.api_user.api_key,
            "webhook_secrets": secrets,
            "xai_api_key": other.api_key,
            "xai_management_key": other.management_key,
            "advoware_app_id": third.firm.app_id,
            "advoware_api_key": third.firm.api_key,
            "advoware_kanzlei": third.firm.kanzlei,
            "advoware_database": third.firm.database,
            "advoware_user": user,
            "advoware_password": password,
        }
    return {
        "espocrm": espocrm.url,
        "espocrm_api": f"{espocrm.url}/api/v1",
        "xai": xai.url,
        "xai_api": f"{xai.url}/v1",
        "advoware": advoware.url,
        "advoware_configurator": f"{advoware.url}/AdvonetConfigurator/api/Url",
        "pid": os.getpid(),
        **keys,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT; end with 2 when the command line or a port is wrong."""
    options = arguments(argv)
    try:
        asyncio.run(_until_signalled(options))
    except (OSError, ValueError) as error:
        print(f"bitbylaw-simulators: {error}", file=sys.stderr)  # noqa: T201 - the command's answer
        sys.exit(2)


async def _until_signalled(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(options, stop=stop)


def _quirks(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {"espocrm": {}, "xai": {}, "advoware": {}}
    for text in given:
        name, _, value = text.partition("=")
        system, _, quirk = name.partition(".")
        if system not in found:
            systems = ", ".join(found)
            raise ValueError(f"a quirk is SYSTEM.NAME=VALUE with one of {systems}, not {text!r}")
        decoded: Any = value
        with suppress(ValueError):
            decoded = json.loads(value)
        found[system][quirk] = decoded
    return found


if __name__ == "__main__":
    main()
