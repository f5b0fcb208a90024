"""EspoCRM, xAI and Advoware as they behave. Imports nothing of the services: it is the other side's word."""
