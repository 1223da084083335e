"""The version of the package.

Duplicated from pyproject.toml: reading the installed metadata opens files and imports the e-mail
parser, which costs over a tenth of what aiohttp does.
"""

__version__ = "0.1.0"
