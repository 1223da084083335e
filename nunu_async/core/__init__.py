"""The session core: sends requests, and decodes their responses.

Nothing in it is public; what a module keeps to itself has an underscore.
"""
