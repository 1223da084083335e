"""The version of the package.

Duplicated from pyproject.toml: reading the installed metadata opens files and imports the e-mail
parser, which takes over a tenth of the time of importing aiohttp.
"""

__version__ = "0.1.0"
