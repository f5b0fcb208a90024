"""Clients of outside systems that more than one service uses."""
