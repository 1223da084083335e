"""The session core: one request in, one typed answer out."""
