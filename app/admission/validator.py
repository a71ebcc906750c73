"""What every validating webhook provides."""

from typing import Protocol

from app.admission.review import AdmissionRequest, Verdict


class Validator(Protocol):
    """Judges what is written."""

    async def validate(self, request: AdmissionRequest) -> Verdict:
        """Return the verdict; raises MalformedReview for an object that is none of its kind."""
        ...
