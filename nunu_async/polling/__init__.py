"""Waiting on many, at the cost of pages."""
