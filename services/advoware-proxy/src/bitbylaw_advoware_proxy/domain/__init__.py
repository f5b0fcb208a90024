"""What the proxy decides, from values alone."""
