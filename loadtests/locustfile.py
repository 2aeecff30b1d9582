"""Users of the service, for Locust.

    locust -f loadtests/locustfile.py --model both            # then http://localhost:8089
    locust -f loadtests/locustfile.py --headless -u 8 -r 4 -t 30s --model mla --host http://localhost:8000
    locust -f loadtests/locustfile.py --headless -u 20 -t 60s --model both StreamUser     # live streams alone

ClipUser sends clips to /transcribe, most of them short; LongFileUser whole recordings; OpenAIUser clips to the route
that OpenAI's clients know; StreamUser speaks on /stream in real time. Each waits for its answer before it goes on, so
they slow down with the server: `python -m loadtests.open_loop` does not, and counts from when a request was due.
Every entry of the statistics, and so their total, is of texts for good: of a stream, `final` for each sentence that
ended while it spoke, and `last` for its end, as `python -m loadtests.paced --help` defines them. A refusal for lack of
room is the failure `busy`. Printed at the end, and at /speech of the web page: word error rates of the texts that came
back, and how long streams' partials took. --texts keeps every text; neither it nor --manifest, both paths on this
machine, can be set from the web page.
"""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path
from typing import Any

import gevent
from locust import HttpUser, User, between, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtests import clips
from loadtests.clips import Clip
from loadtests.http_client import BUSY, GIVE_UP_S, ROUTES
from loadtests.live_user import StreamEnded, play
from loadtests.paced_client import Sound
from loadtests.stream_load import PAUSE_S, playable
from loadtests.tally import Tally

HOST = "http://localhost:8000"
MIX_CLIPS, RECORDINGS, SPEECHES = 40, 4, 16
OPTIONS = ("model", "long_s", "stream_s", "stream_profile", "api_key", "seed")
LONGEST_BACK_OFF_S = 5.0
log = logging.getLogger(__name__)
tally = Tally()


class Speech:
    """What there is to say, to which models: all made ready beforehand, as joining and decoding would hold up users."""

    def __init__(self, options: Any, given: dict[str, Any], sounds: list[Clip]) -> None:
        self.given = given
        self.models = ["mha", "mla"] if options.model == "both" else options.model.split(",")
        self.random = random.Random(options.seed)
        self.mix = clips.mixed(sounds, MIX_CLIPS, options.seed)
        self.recordings = [
            clips.joined(sounds, options.long_s, self.random, over=True) for _ in range(RECORDINGS)
        ]
        speeches = (
            clips.joined(sounds, options.stream_s, self.random, PAUSE_S, over=True) for _ in range(SPEECHES)
        )
        self.speeches = [(clip, playable(clip)) for clip in speeches]
        self.headers = {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}
        self.start = {"profile": options.stream_profile} if options.stream_profile else {}

    def model(self) -> str:
        return self.random.choice(self.models)

    def clip(self) -> Clip:
        return self.random.choice(self.mix)

    def recording(self) -> Clip:
        return self.random.choice(self.recordings)

    def speech(self) -> tuple[Clip, Sound]:
        return self.random.choice(self.speeches)


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """What is sent; the web page asks for it as well, but for paths."""
    add = parser.add_argument
    path = {"default": "", "include_in_web_ui": False}
    add("--model", default="both", help="mha, mla, both, or names of models parted by commas (default: both)")
    add("--manifest", "--clips", **path | {"default": str(clips.SPEECH)}, help=clips.MANIFEST_HELP)
    add("--long-s", type=float, default=90.0, help="length of a LongFileUser's recordings (default: 90)")
    add("--stream-s", type=float, default=15.0, help="length of a stream (default: 15)")
    add("--stream-profile", default="", help="balanced, fast or long (default: the server's)")
    add(
        "--api-key", default=os.environ.get("MLA_ASR_KEY", ""), is_secret=True, help="(default: $MLA_ASR_KEY)"
    )
    add("--texts", **path, help="JSON lines to add every text to, with what was said")
    add("--seed", type=int, default=1, help="of what is sent (default: 1)")


@events.init.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Read the recordings before the time of the test runs. Ends Locust with 2 where they, or --host, cannot be used.

    Paths are kept as the shell gave them: the page's server takes every option that there is, shown there or not.
    """
    options: Any = environment.parsed_options
    try:
        if options.host and not options.host.startswith(("http://", "https://")):
            raise ValueError(f"--host {options.host!r}: write http:// or https:// before it")
        sounds = clips.read(Path(options.manifest))
    except ValueError as error:
        log.error("%s", error)
        environment.process_exit_code = 2
        raise SystemExit(2) from None
    texts = Path(options.texts) if options.texts else None
    _make_ready(environment, sounds)
    page = environment.web_ui.app if environment.web_ui else None
    if page:
        page.add_url_rule("/speech", "speech", tally.found)

    @environment.events.test_start.add_listener
    def begin(**_: Any) -> None:
        """Count anew, and make ready again where other options were given on the web page."""
        _make_ready(environment, sounds)
        tally.begin(texts)


def _make_ready(environment: Environment, sounds: list[Clip]) -> None:
    options = environment.parsed_options
    given = {name: getattr(options, name) for name in OPTIONS}
    there: Speech | None = getattr(environment, "speech", None)
    if not there or there.given != given:
        environment.speech = Speech(options, given, sounds)  # type: ignore[attr-defined]


@events.report_to_master.add_listener
def to_master(client_id: str, data: dict[str, Any]) -> None:
    data["speech"] = tally.take()


@events.worker_report.add_listener
def from_worker(client_id: str, data: dict[str, Any]) -> None:
    if "speech" in data:
        tally.merge(data["speech"])


@events.quitting.add_listener
def say_rates(environment: Environment, **_: Any) -> None:
    for line in tally.lines():
        print(line)


class Offline(HttpUser):
    """Sends a file, waits for its text."""

    abstract = True
    host = HOST
    wait_time = between(0.2, 1.0)
    route = ROUTES[0]

    def send(self, clip: Clip, kind: str) -> None:
        speech: Speech = self.environment.speech
        model = speech.model()
        request: dict[str, Any] = {
            "data": {"model": model},
            "files": {"file": (clip.name[-60:], clip.body)},
            "headers": speech.headers,
            "timeout": GIVE_UP_S,
        }
        with self.client.post(self.route, name=f"{kind} {model}", catch_response=True, **request) as answer:
            if answer.status_code == 200:
                tally.add(f"{kind} {model}", clip, answer.json()["text"])
                return
            answer.request_meta["response_time"] = None  # percentiles are of texts: a refusal is quick
            if answer.status_code == BUSY:
                answer.failure("busy")
                gevent.sleep(min(LONGEST_BACK_OFF_S, float(answer.headers.get("retry-after", 1))))
            else:
                answer.failure(_reason(answer))


def _reason(answer: Any) -> str:
    """Few different ones: Locust lists each."""
    try:
        return f"{answer.status_code} {answer.json()['error']['code']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {type(answer.error).__name__ if answer.error else 'not an error of the API'}"


class ClipUser(Offline):
    """Clips of one sentence, and of some joined, to /transcribe."""

    weight = 6

    @task
    def clip(self) -> None:
        self.send(self.environment.speech.clip(), "clip")


class LongFileUser(Offline):
    """A recording of --long-s, then a while nothing."""

    weight = 1
    wait_time = between(2.0, 5.0)

    @task
    def recording(self) -> None:
        self.send(self.environment.speech.recording(), "long file")


class OpenAIUser(Offline):
    """The same clips to the route of OpenAI's clients."""

    weight = 3
    route = ROUTES[1]

    @task
    def clip(self) -> None:
        self.send(self.environment.speech.clip(), "openai")


class StreamUser(User):
    """Speaks in real time on /stream, for --stream-s."""

    weight = 3
    host = HOST
    wait_time = between(0.5, 2.0)

    @task
    def talk(self) -> None:
        speech: Speech = self.environment.speech
        model, (clip, sound) = speech.model(), speech.speech()

        def fire(kind: str, seconds: float, length: int, error: Exception | None = None) -> None:
            if kind == "partial":
                tally.partial(model, seconds)
                return
            self.environment.events.request.fire(
                request_type="WS",
                name=f"{kind} {model}",
                response_time=None if error else 1000 * seconds,
                response_length=length,
                exception=error,
                context={},
            )

        try:
            text = play(self.host or HOST, model, sound, speech.start, speech.headers, fire)
        except StreamEnded as error:
            fire("last", 0.0, 0, error)
            gevent.sleep(1.0)
        else:
            tally.add(f"stream {model}", clip, text)
