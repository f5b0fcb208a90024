"""The main of every container: settings, logs, hosting, signals; the one reader of `os.environ`."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

import uvloop

from bitbylaw_common import logs
from bitbylaw_common.errors import SettingsError
from bitbylaw_common.logs import step_logger
from bitbylaw_common.runtime.app import App
from bitbylaw_common.runtime.hosting import hosting
from bitbylaw_common.settings import RuntimeSettings, secret_values

EXIT_SETTINGS = 2
EXIT_BROKEN = 70


def run(app: App[Any]) -> None:
    """Run one app until SIGTERM or SIGINT, then drain; ends the process.

    Exit codes: 0 stopped in order, 2 the environment does not fit, 70 a consumer broke and the
    process must be started anew.
    """
    env = dict(os.environ)  # noqa: TID251 - the one reader
    try:
        runtime = RuntimeSettings.from_env(env)
        logs.configure(runtime.log_format, runtime.log_level, secrets=secret_values(env))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            sys.exit(runner.run(_until_told(app, env)))
    except SettingsError as unfit:
        print(unfit, file=sys.stderr)  # noqa: T201 - there is no log before there are settings
        sys.exit(EXIT_SETTINGS)


def _calm_collector() -> None:
    """Let Python's collector of cycles look at what is young, seldom, and not at what stays.

    With its defaults it walked all that lives after every few thousand new objects: an eighth of
    ingest's time, in pauses of up to a tenth of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


async def _until_told(app: App[Any], env: Mapping[str, str]) -> int:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    logger = step_logger(service=app.name)
    async with hosting([app], env) as process:
        _calm_collector()
        logger.info("serving", url=process.url)
        waits = {asyncio.create_task(told.wait()), asyncio.create_task(process.broken.wait())}
        _, idle = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in idle:
            task.cancel()
        if process.failure is not None:
            if isinstance(process.failure, SettingsError):
                raise process.failure
            logger.error("a consumer broke; the process ends", exc_info=process.failure)
            return EXIT_BROKEN
        logger.info("told to stop; draining")
    logger.info("stopped")
    return 0
