"""ingest as an app: EspoCRM's webhooks in, events out."""

from bitbylaw_common.runtime import App
from bitbylaw_common.runtime.run import run
from bitbylaw_ingest.deps import open_deps
from bitbylaw_ingest.steps.vmh_webhook_api_step import STEPS

app = App("ingest", STEPS, open_deps)


def main() -> None:
    """Run ingest until it is told to stop."""
    run(app)
