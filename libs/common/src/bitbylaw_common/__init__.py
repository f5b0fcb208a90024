"""What every BitByLaw service shares: the runtime, topics and events, clients and locks."""
