"""Reading what Velero stored of a backup from its object store, as a stream: nothing is written to a disk.

An archive has whatever the cluster had, and may be of any size; what is read of it is bounded.
"""

import gzip
import io
import ssl
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO, Final, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
)

from app.core.text import one_line

MAX_BYTES: Final = 64 * 1024**3
"""Of one download, after decompression."""
MAX_LINE_BYTES: Final = 1024 * 1024
"""Of a log; the rest of a longer line is left out."""

_SILENCE = 60.0
_GZIP = b"\x1f\x8b"
_CHUNK = 256 * 1024


class StoreError(Exception):
    """The object store could not be read; the message is one line."""


class NotStoredError(StoreError):
    """The object store answers, and does not have it."""


def trust(ca_file: Path | None, ca_pem: str, *, verify: bool) -> ssl.SSLContext:
    """Whom to believe that he is the object store: the system's authorities, and those of a file, or else of a text.

    Raises StoreError for certificates that can't be read.
    """
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Go accepts authorities without an Authority Key Identifier
    try:
        if ca_file:
            context.load_verify_locations(cafile=str(ca_file))
        elif ca_pem:
            context.load_verify_locations(cadata=ca_pem)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        origin = str(ca_file) if ca_file else "the certificates of the BackupStorageLocation"
        raise StoreError(f"{origin}: {one_line(str(error))}") from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def opened(url: str, context: ssl.SSLContext) -> Iterator[BinaryIO]:
    """Download from a URL, decompressing gzip. Raises NotStoredError and StoreError, within the block too."""
    where = _origin(url)
    try:
        with _response(url, context) as response:
            yield _plain(response)
    except HTTPError as error:
        raise _refusal(where, error) from error
    except URLError as error:
        hint = ""
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            hint = "; --cacert names its authority, and --insecure-skip-tls-verify goes without"
        raise StoreError(f"{where}: {one_line(str(error.reason))}{hint}") from error
    except (OSError, HTTPException, EOFError, zlib.error, tarfile.TarError) as error:
        reason = one_line(str(error)) or type(error).__name__
        raise StoreError(f"{where}: the download was cut short or is damaged: {reason}") from error


def _refusal(where: str, error: HTTPError) -> StoreError:
    if error.closed:  # after a redirect to where nobody is sent
        return StoreError(f"{where}: {one_line(str(error))}")
    with error:
        if error.code == 404:
            return NotStoredError(f"{where}: not there")
        detail = one_line(error.read(2000).decode(errors="replace"))
    return StoreError(f"{where}: {error.code} {error.reason}: {detail}")


def _origin(url: str) -> str:
    """Scheme and host of a URL: the rest has a signature."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise StoreError("the URL that Velero gives for the download is not one of HTTP")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _response(url: str, context: ssl.SSLContext) -> HTTPResponse:
    opener = OpenerDirector()  # with no handler of files and FTP, unlike the default one
    for handler in (
        ProxyHandler(),
        HTTPHandler(),
        HTTPSHandler(context=context),
        HTTPRedirectHandler(),
        HTTPDefaultErrorHandler(),
        HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    response = opener.open(url, timeout=_SILENCE)
    if response is None:
        raise StoreError(f"{_origin(url)}: it redirects to something that is not HTTP")
    return cast(HTTPResponse, response)


def _plain(response: HTTPResponse) -> BinaryIO:
    buffered = io.BufferedReader(response, _CHUNK)
    is_compressed = buffered.peek(2)[:2] == _GZIP
    stream = cast(BinaryIO, gzip.GzipFile(fileobj=buffered)) if is_compressed else buffered
    return cast(BinaryIO, io.BufferedReader(_Limited(stream), _CHUNK))


class _Limited(io.RawIOBase):
    """A stream that ends with an error when more comes out of it than anything of this kind has."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, MAX_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise StoreError(f"the download has more than {MAX_BYTES} bytes")
        buffer[: len(data)] = data
        return len(data)


def lines_of(stream: BinaryIO) -> Iterator[str]:
    """The lines of a log."""
    while line := stream.readline(MAX_LINE_BYTES):
        rest = line
        while not rest.endswith(b"\n") and (rest := stream.readline(MAX_LINE_BYTES)):
            pass
        yield line.decode(errors="replace")


def members_of(stream: BinaryIO, wanted: Callable[[str], bool], max_bytes: int) -> Iterator[tuple[str, bytes | None]]:
    """Path and content of the files of a tar archive that are wanted; None for one that is larger than `max_bytes`."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        while (member := archive.next()) is not None:
            cast(Any, archive).members.clear()  # which would keep every one of them
            if member.isreg() and wanted(member.name):
                file = archive.extractfile(member) if member.size <= max_bytes else None
                yield member.name, file.read() if file else None
