"""Which version this is.

Said here as well as in pyproject.toml: asking the installed metadata for it reads files, and loads
the parser of e-mail, which costs over a tenth of what aiohttp does.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
