"""What the environment says of certificates, checked before it is needed."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nunu_async.errors import ConfigError

__all__ = ["check_certificates", "check_key_log", "is_hopeless"]

# OpenSSL's own variables, which it obeys without a word about what it cannot read: every
# certificate is untrusted then, and nothing says why.
_FILE: Final = "SSL_CERT_FILE"
_FOLDER: Final = "SSL_CERT_DIR"
# Where Python writes the keys of all TLS, for tools that look into it.
_KEY_LOG: Final = "SSLKEYLOGFILE"
# OpenSSL's words for a handshake that ends in the same way every time.
_HOPELESS: Final = frozenset(
    {
        *("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE"),
        *("WRONG_VERSION_NUMBER", "WRONG_SSL_VERSION", "SSLV3_ALERT_HANDSHAKE_FAILURE"),
        *("NO_SHARED_CIPHER", "INSUFFICIENT_SECURITY", "HTTP_REQUEST"),
    }
)


def check_certificates(environ: Mapping[str, str]) -> None:
    """Make sure that certificates can be read from where `environ` says they are.

    Raises: ConfigError, which names the variable.
    """
    check_key_log(environ)
    file = environ.get(_FILE)
    # A pipe of the shell's can be read but once, and a folder not at all.
    place = Path(file or "")
    if file and (place.is_file() or place.is_dir() or not place.exists()):
        try:
            ssl.create_default_context(cafile=file)
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            told = getattr(error, "reason", None) or getattr(error, "strerror", None) or "unusable"
            raise ConfigError(
                f"{_FILE}: no certificates can be read from {file!a} ({told})"
            ) from None
    folder = environ.get(_FOLDER)
    if folder and not any(Path(place).is_dir() for place in folder.split(os.pathsep)):
        raise ConfigError(f"{_FOLDER}: {folder!a} is no directory")


def check_key_log(environ: Mapping[str, str]) -> None:
    """Make sure that what `SSLKEYLOGFILE` names can be written, which Python opens for all TLS.

    aiohttp makes ready for TLS as it is imported, so that even that would fail.

    Raises: ConfigError, which names the variable.
    """
    file = environ.get(_KEY_LOG)
    if file and not sys.flags.ignore_environment:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).keylog_filename = file
        except (OSError, ValueError) as error:
            told = getattr(error, "strerror", None) or "unusable"
            raise ConfigError(
                f"{_KEY_LOG}: {file!a} cannot be written ({told}); unset it, or name a file that "
                "can be written"
            ) from None


def is_hopeless(error: BaseException | None) -> bool:
    """Tell whether a handshake failed in a way in which it always will."""
    return isinstance(error, ssl.SSLError) and error.reason in _HOPELESS
