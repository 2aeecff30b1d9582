"""What `docker.smoke` and `docker.host_check` ask of a running service; a check that fails raises AssertionError."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from websockets.sync.client import connect

CLIP = Path(__file__).parents[1] / "tests" / "speech" / "test-seen-voices" / "000005-7065f1ca.flac"
WAIT_S = 120.0


@dataclass(frozen=True)
class Client:
    """A service, or what stands before it, and a key that it knows."""

    url: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def post(
        self, path: str, body: bytes, content_type: str = "audio/flac", *, key: bool = True
    ) -> tuple[int, bytes]:
        """Status and body of the answer, whatever it is."""
        headers = {"Content-Type": content_type} | (self.headers if key else {})
        request = urllib.request.Request(self.url + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def transcribe(self, model: str, clip: Path = CLIP) -> tuple[int, bytes]:
        return self.post(f"/transcribe?model={model}", clip.read_bytes())

    # Checks

    def text(self, model: str) -> str:
        """A clip is transcribed."""
        status, body = self.transcribe(model)
        assert status == 200, (status, body)
        text = json.loads(body)["text"]
        assert text
        return str(text)

    def wants_a_key(self) -> None:
        status, body = self.post("/transcribe?model=mha", b"", key=False)
        assert (status, code(body)) == (401, "missing_api_key"), (status, body)

    def knows_its_models(self) -> None:
        status, body = self.transcribe("nobody")
        assert (status, code(body)) == (404, "model_not_found"), (status, body)

    def refuses_too_much(self, size_bytes: int = 2**40) -> None:
        """An upload over the limit is refused by its length alone, in the API's shape."""
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.url).netloc, timeout=WAIT_S)
        connection.putrequest("POST", "/transcribe?model=mha")
        for name, value in {
            **self.headers,
            "Content-Type": "audio/flac",
            "Content-Length": str(size_bytes),
        }.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        assert (answer.status, code(body)) == (413, "upload_too_large"), (answer.status, body)

    def hides_its_metrics(self) -> None:
        """What stands before the instances does not pass /metrics on."""
        try:
            urllib.request.urlopen(f"{self.url}/metrics", timeout=WAIT_S)
        except urllib.error.HTTPError as error:
            assert error.code == 404, error.code
        else:
            raise AssertionError("/metrics can be read")

    def sends_events(self, model: str) -> str:
        """OpenAI's route streams its text as server-sent events."""
        status, body = self.post("/v1/audio/transcriptions", *form({"model": model, "stream": "true"}, CLIP))
        assert status == 200, (status, body)
        events = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {")]
        assert events and events[-1]["type"] == "transcript.text.done", events
        return str(events[-1]["text"])

    def streams(self, model: str) -> str:
        """A clip on the WebSocket, as fast as it is taken."""
        samples, rate = soundfile.read(CLIP, dtype="int16")
        address = f"{self.url.replace('http', 'ws', 1)}/stream?model={model}"
        heard: list[dict[str, Any]] = []
        with connect(
            address, additional_headers=self.headers, open_timeout=WAIT_S, compression=None
        ) as socket:
            socket.send(json.dumps({"type": "start", "sample_rate": rate}))
            for piece in np.array_split(samples, 8):
                socket.send(piece.tobytes())
            socket.send(json.dumps({"type": "end"}))
            while not heard or heard[-1]["type"] not in ("done", "error"):
                heard.append(json.loads(socket.recv(WAIT_S)))
        assert heard[-1]["type"] == "done", heard[-1]
        return " ".join(message["text"] for message in heard if message["type"] == "final").strip()


def code(body: bytes) -> str | None:
    """The code of an error in the API's shape; None for anything else."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return None


def form(fields: dict[str, str], file: Path) -> tuple[bytes, str]:
    """A multipart form with a file, and its content type."""
    mark = "mla-asr-form"
    line = f"--{mark}\r\nContent-Disposition: form-data; name="
    parts = [f'{line}"{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
    head = f'{line}"file"; filename="{file.name}"\r\n\r\n'
    body = "".join(parts).encode() + head.encode() + file.read_bytes() + f"\r\n--{mark}--\r\n".encode()
    return body, f"multipart/form-data; boundary={mark}"
