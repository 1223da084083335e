"""The session core: sends requests, and decodes their responses.

Its modules are not public; names that are private to a module start with an underscore.
"""
