"""HTTP steps of the proxy."""
