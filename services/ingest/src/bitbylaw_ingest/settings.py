"""The environment that ingest reads."""

from bitbylaw_common.settings import EnvModel, RuntimeSettings, WebhookSettings


class IngestSettings(EnvModel):
    """Where ingest listens and whose webhooks it believes."""

    runtime: RuntimeSettings
    webhooks: WebhookSettings

    @property
    def secrets(self) -> dict[str, tuple[str, ...]]:
        """The webhooks' secrets in clear, by webhook id."""
        return {
            webhook_id: tuple(secret.get_secret_value() for secret in secrets)
            for webhook_id, secrets in self.webhooks.secrets.items()
        }

    @property
    def accepts_unsigned(self) -> bool:
        """Whether a post without a signature is believed.

        Raises:
            SettingsError: the settings leave posts open to anybody who can reach the port.
        """
        return self.webhooks.accepts_unsigned(self.runtime.http_host)
