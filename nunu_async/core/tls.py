"""Check the certificate settings of the environment before they are needed."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nunu_async.errors import ConfigError

# OpenSSL's own variables. It ignores paths that it cannot read: then no certificate is trusted, and
# no error says why.
_FILE: Final = "SSL_CERT_FILE"
_FOLDER: Final = "SSL_CERT_DIR"
# Names the file to which Python logs all TLS session keys, for tools that decrypt traffic.
_KEY_LOG: Final = "SSLKEYLOGFILE"
# OpenSSL's reasons for handshake failures that a retry cannot change.
_PERMANENT: Final = frozenset(
    {
        *("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE"),
        *("WRONG_VERSION_NUMBER", "WRONG_SSL_VERSION", "SSLV3_ALERT_HANDSHAKE_FAILURE"),
        *("NO_SHARED_CIPHER", "INSUFFICIENT_SECURITY", "HTTP_REQUEST"),
    }
)


def check_certificates(environ: Mapping[str, str]) -> None:
    """Check that the certificates named by the variables in `environ` can be read.

    Raises: ConfigError, which names the variable.
    """
    check_key_log(environ)
    file = environ.get(_FILE)
    # A folder is rejected here; a shell pipe is not checked, as it can be read only once.
    path = Path(file or "")
    if file and (path.is_file() or path.is_dir() or not path.exists()):
        try:
            ssl.create_default_context(cafile=file)
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            reason = (
                getattr(error, "reason", None) or getattr(error, "strerror", None) or "unusable"
            )
            raise ConfigError(
                f"{_FILE}: no certificates can be read from {file!a} ({reason})"
            ) from None
    folder = environ.get(_FOLDER)
    if folder and not any(Path(path).is_dir() for path in folder.split(os.pathsep)):
        raise ConfigError(f"{_FOLDER}: {folder!a} is no directory")


def check_key_log(environ: Mapping[str, str]) -> None:
    """Check that the file named by `SSLKEYLOGFILE` can be written.

    Python opens it for every TLS context. aiohttp creates one on import, so even the import would
    fail.

    Raises: ConfigError, which names the variable.
    """
    file = environ.get(_KEY_LOG)
    if file and not sys.flags.ignore_environment:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).keylog_filename = file
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "unusable"
            raise ConfigError(
                f"{_KEY_LOG}: {file!a} cannot be written ({reason}); unset it, or name a file that "
                "can be written"
            ) from None


def is_hopeless(error: BaseException | None) -> bool:
    """Tell whether a handshake failed in a way that a retry cannot change."""
    return isinstance(error, ssl.SSLError) and error.reason in _PERMANENT
