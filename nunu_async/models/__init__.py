"""Frozen models of what the API takes and gives, one module for each resource."""
