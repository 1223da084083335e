"""One module for each API resource; a method builds a request and sends it."""
