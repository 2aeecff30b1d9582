"""The body of a request to a file on disk, counted while it arrives."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import Message

from service.errors import BadRequest, ClientGone, SlowUpload, TooLarge, Unavailable

log = logging.getLogger(__name__)

MULTIPART = "multipart/form-data"
RAW_TYPES = ("application/octet-stream", "application/ogg")
WRITE_BYTES = 2**20
# Of Python's other codecs, which the form parser would take, some need minutes for a megabyte.
CHARSETS = ("utf-8", "us-ascii", "iso-8859-1")
SLOWEST_BYTES_PER_S = 512  # speech in Opus or MP3 at its lowest rates, sent as it is spoken, is 750 and more


@dataclass(frozen=True)
class FormLimits:
    """How many fields a form may have beside the file, and what they may take together."""

    fields: int
    fields_bytes: int


FEW = FormLimits(20, 64 * 1024)


async def receive(
    request: Request, target: Path, *, max_bytes: int, idle_s: float, form: FormLimits = FEW
) -> list[tuple[str, str]]:
    """Write the audio of `request` to `target` and return the form's other fields.

    Raises:
        BadRequest: no audio in it, or not the form it should be.
        TooLarge: over `max_bytes`; known from its header, or as soon as that many have come.
        SlowUpload: nothing came for `idle_s`, or after that time too little for it.
        ClientGone: the client left.
    """
    check_length(request, max_bytes)
    kind = content_type(request)
    with _named_errors():
        counted = _counted(request, max_bytes, idle_s)
        if kind == MULTIPART:
            return await _receive_form(counted, target, form)
        if not (kind.startswith(("audio/", "video/")) or kind in RAW_TYPES):
            raise BadRequest(
                "send the audio as the multipart field 'file', or as the raw body with an audio content type such "
                f"as audio/flac or application/octet-stream, not {kind[:100]!r}",
                code="unsupported_content_type",
            )
        await _receive_raw(counted, target)
    return []


def content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_length(request: Request, max_bytes: int) -> None:
    """Raise TooLarge where the header already says so."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)


def _counted(request: Request, max_bytes: int, idle_s: float) -> Request:
    """The same request, with its body limited in size and in pauses."""
    received_bytes, started = 0, time.monotonic()

    async def receive_counted() -> Message:
        nonlocal received_bytes
        try:
            async with asyncio.timeout(idle_s):
                message = await request.receive()
        except TimeoutError:
            raise SlowUpload(f"nothing arrived for {idle_s:g} s (upload_idle_s)") from None
        received_bytes += len(message.get("body", b""))
        if received_bytes > max_bytes:
            raise _too_large(max_bytes)
        passed_s = time.monotonic() - started
        if passed_s > idle_s and message.get("more_body") and received_bytes < SLOWEST_BYTES_PER_S * passed_s:
            raise SlowUpload(
                f"{received_bytes} bytes in {passed_s:.1f} s; uploads must have {SLOWEST_BYTES_PER_S} bytes a second"
            )
        return message

    return Request(request.scope, receive_counted)


async def _receive_raw(request: Request, target: Path) -> None:
    with open(target, "wb") as file:
        waiting = bytearray()
        async for chunk in request.stream():
            waiting += chunk
            if len(waiting) >= WRITE_BYTES:
                await asyncio.to_thread(file.write, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(file.write, bytes(waiting))


async def _receive_form(request: Request, target: Path, limits: FormLimits) -> list[tuple[str, str]]:
    charset = (
        parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8").decode("latin-1")
    )
    if charset.lower() not in CHARSETS:
        raise BadRequest(
            f"the form's character set is {charset[:100]!r}; choices: {', '.join(CHARSETS)}", code="bad_form"
        )
    async with aclosing(request.stream()) as stream:
        form = await _Form(request, stream, limits).parse()
    try:
        await asyncio.to_thread(_copy, _audio_of(form), target)
        return [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    finally:
        await form.close()


class _Form(MultiPartParser):
    """The form in a request's body; its fields share one bound in bytes, as they are kept in memory."""

    def __init__(self, request: Request, stream: AsyncGenerator[bytes, None], limits: FormLimits) -> None:
        super().__init__(
            request.headers,
            stream,
            max_files=1,
            max_fields=limits.fields,
            max_part_size=limits.fields_bytes,
        )

    def on_part_end(self) -> None:
        super().on_part_end()
        _, value = self.items[-1]
        if isinstance(value, str):
            self.max_part_size -= len(value.encode())


def _audio_of(form: FormData) -> BinaryIO:
    files = {name: value for name, value in form.multi_items() if isinstance(value, UploadFile)}
    if "file" not in files:
        found = f"; found one in {next(iter(files))[:100]!r}" if files else ""
        raise BadRequest(
            f"the form must hold a file in the field 'file'{found}", code="missing_file", param="file"
        )
    return files["file"].file


def _copy(source: BinaryIO, target: Path) -> None:
    with open(target, "wb") as file:
        shutil.copyfileobj(source, file, 2**20)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"the upload is over the limit of {max_bytes} bytes (max_upload_bytes)", code="upload_too_large"
    )


@contextmanager
def _named_errors() -> Iterator[None]:
    """Give our names to the ways in which the form parser and the disk say that it does not work."""
    try:
        yield
    except ClientDisconnect:
        raise ClientGone("the client left during the upload") from None
    except MultiPartException as error:
        raise BadRequest(error.message, code="bad_form") from None
    except OSError as error:
        log.error("an upload could not be written: %s", error)
        raise Unavailable("the server has no room for the upload", code="no_disk_space") from None
