"""The session core: sends requests, and decodes their responses."""
