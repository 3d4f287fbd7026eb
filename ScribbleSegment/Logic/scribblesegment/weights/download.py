"""Downloads of large files: with progress, cancelled and continued at will, and only over addresses that are safe."""

from __future__ import annotations

import errno
import http.client
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from scribblesegment.errors import WeightsError

Progress = Callable[[float, str], None]
Cancelled = Callable[[], bool]

_CHUNK = 1 << 18
_TIMEOUT_S = 30.0
_SIZE_TOLERANCE = 2.0  # where a size was only estimated
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_OTHER_WAY = "Check the connection and try again, or get the file on another computer and import it."


def is_safe_address(url: str) -> bool:
    """Whether a file may come from there: by https, or from a server on this computer."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost"))


def download(
    url: str,
    part: Path,
    *,
    name: str,
    size: int,
    exact: bool,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> None:
    """Fill a file from an address, going on where an earlier call stopped.

    Args:
        url: where it comes from.
        part: what has arrived. It stays when the download is cancelled or breaks off, and is removed if it is wrong or
            does not fit on the disk.
        name: what messages call it.
        size: expected bytes; 0 if unknown.
        exact: whether `size` is exact; otherwise half or twice of it are accepted.
        progress: called with the finished fraction and a text with the bytes so far.
        cancelled: asked between pieces.

    Raises:
        WeightsError: the download was cancelled, fails, or is of the wrong size, or the disk is full.
    """
    there = part.stat().st_size if part.is_file() else 0
    try:
        with _open(url, there) as response:
            goes_on = (response.headers.get("Content-Range") or "").startswith(f"bytes {there}-")
            there = there if response.status == http.HTTPStatus.PARTIAL_CONTENT and goes_on else 0
            rest = response.headers.get("Content-Length")
            total = there + int(rest) if rest is not None and rest.isdigit() else 0
            lowest, highest = (size, size) if exact else (size / _SIZE_TOLERANCE, size * _SIZE_TOLERANCE)
            if size and total and not lowest <= total <= highest:
                about = "" if exact else "about "
                raise _WrongFileError(
                    f"{url} gives {total} bytes for {name} instead of {about}{size}: probably it is another file now. "
                    "Get it from its authors and import it."
                )
            free = shutil.disk_usage(part.parent).free
            if total - there > free:
                raise WeightsError(
                    f"{name} needs {(total - there) / 1e6:.0f} MB, and {part.parent} has {free / 1e6:.0f} MB left. "
                    "Free some space, or choose another folder by SCRIBBLESEGMENT_WEIGHTS_DIR."
                )
            with part.open("ab" if there else "wb") as file:
                while piece := response.read(_CHUNK):
                    if cancelled is not None and cancelled():
                        raise WeightsError(
                            f"The download of {name} was cancelled. What has arrived is kept, and the next one goes on "
                            "from there."
                        )
                    file.write(piece)
                    there += len(piece)
                    if size and there > highest:
                        raise _WrongFileError(f"{url} gives more than the {size} bytes of {name}; it was thrown away.")
                    if progress is not None:
                        of = total or max(size, there)
                        progress(there / of, f"{name}: {there / 1e6:.1f} of {of / 1e6:.1f} MB")
        if total and there < total:
            raise ConnectionError(f"it broke off after {there} of {total} bytes")
    except _WrongFileError as error:
        part.unlink(missing_ok=True)
        raise WeightsError(str(error)) from None
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in _FULL:
            part.unlink(missing_ok=True)
            raise WeightsError(f"The disk is full: {name} does not fit into {part.parent}. Free some space.") from error
        raise WeightsError(f"The download of {name} from {url} failed: {error}. {_OTHER_WAY}") from error


class _WrongFileError(Exception):
    """What arrives cannot be the file that was meant."""


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        request: urllib.request.Request,
        file: IO[bytes],
        code: int,
        message: str,
        headers: http.client.HTTPMessage,
        address: str,
    ) -> urllib.request.Request | None:
        if not is_safe_address(address):
            raise urllib.error.URLError(f"it leads on to {address}, which is not https")
        return super().redirect_request(request, file, code, message, headers, address)


def _open(url: str, there: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": "ScribbleSegment", "Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
    opener = urllib.request.build_opener(_SafeRedirects)
    try:
        response: http.client.HTTPResponse = opener.open(urllib.request.Request(url, headers=headers), None, _TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and there:
            return _open(url, 0)
        raise
    return response
