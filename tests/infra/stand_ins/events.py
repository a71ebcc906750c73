"""A stand-in for what sends Events to the API server."""

from dataclasses import dataclass

from app.controllers.events.recorder import EventRecorder, ObjectRef


@dataclass(frozen=True)
class RecordedEvent:
    """An Event that was recorded."""

    about: ObjectRef
    type: str
    reason: str
    message: str
    recurring: bool


class StandInRecorder(EventRecorder):
    """Keeps the Events instead of sending them."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[RecordedEvent] = []

    def record(self, about: ObjectRef, event_type: str, reason: str, message: str, *, recurring: bool = False) -> None:
        """Keep an Event, unless it is the repetition of one that does not recur."""
        event = RecordedEvent(about, event_type, reason, message, recurring)
        if recurring or event not in self.events:
            self.events.append(event)

    @property
    def reasons(self) -> list[str]:
        """The reasons of all of them."""
        return [event.reason for event in self.events]
