"""All live streams: who gets a slot, and how they end when the server does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from service.errors import ApiError, NotFound, NotServing, Overloaded
from service.scheduler import Lane, StepQueue
from service.segments import Rules
from service.sessions import Session
from service.settings import Profile
from service.slots import Slots

RETRY_S = 5.0
Stop = Callable[[ApiError], None]


class Streams:
    """The door to the slots. `slots` may fill later: the models load in the background."""

    def __init__(
        self,
        profiles: Sequence[Profile],
        slots: Mapping[Lane, Slots],
        steps: StepQueue,
        *,
        rules: Rules,
        buffer_s: float,
    ) -> None:
        self.profiles = [profile.name for profile in profiles]
        self.slots = slots
        self._steps, self._rules, self._buffer_s = steps, rules, buffer_s
        self._stops: set[Stop] = set()
        self._draining = False

    @property
    def connected(self) -> int:
        """How many clients there are, with a slot or without."""
        return len(self._stops)

    @contextmanager
    def attend(self, stop: Stop) -> Iterator[None]:
        """Count a client for as long as the block lasts; `stop` is called, with a reason, when it has to end early."""
        self._stops.add(stop)
        try:
            yield
        finally:
            self._stops.discard(stop)

    @contextmanager
    def open(self, model: str, profile: str | None) -> Iterator[Session]:
        """A session with a slot of its own, for as long as the block lasts.

        Args:
            model: one that serves.
            profile: one of `profiles`; None for the first.

        Raises:
            NotFound: no such profile, or no slots for it at all.
            Overloaded: every slot is taken.
            NotServing: the server is about to end.
        """
        slots = self._slots(model, profile or self.profiles[0])
        slot = slots.take()
        if slot is None:
            raise Overloaded(
                f"all {slots.total} streams of {model}/{slots.profile.name} are taken (stream_memory); "
                f"try again in {RETRY_S:g} s",
                retry_after_s=RETRY_S,
                code="full",
            )
        session = Session(slots, slot, self._steps, rules=self._rules, buffer_s=self._buffer_s)
        self._steps.joined(slots.lane)
        try:
            yield session
        finally:
            self._steps.left(slots.lane)
            session.close()

    def drain(self) -> None:
        """Open no more, and have those there are say what they have heard."""
        if not self._draining:
            self._draining = True
            for stop in list(self._stops):
                stop(_draining("what was heard has been said"))

    def _slots(self, model: str, profile: str) -> Slots:
        if self._draining:
            raise _draining("no streams are opened")
        if profile not in self.profiles:
            choices = ", ".join(self.profiles)
            raise NotFound(
                f"no profile {profile[:100]!r}; choices: {choices}", code="profile_not_found", param="profile"
            )
        if (model, profile) not in self.slots:
            raise NotFound(
                f"this server has no room for streams of {model}/{profile} (stream_memory)", code="no_streams"
            )
        return self.slots[model, profile]


def _draining(consequence: str) -> ApiError:
    return NotServing(f"the server is shutting down: {consequence}", code="draining")
