"""Reviews that start from the sample in the repository."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import orjson

from app.admission.review import AdmissionRequest, decode_review

Object = dict[str, Any]

SAMPLE: Object = json.loads((Path(__file__).parents[1] / "data" / "review.json").read_text())


def make_review(**request: Any) -> Object:
    """Return the sample with these fields of its request instead of its own; None takes a field away."""
    review = deepcopy(SAMPLE)
    fields = {**review["request"], **request}
    return {**review, "request": {field: value for field, value in fields.items() if value is not None}}


def make_request(**request: Any) -> AdmissionRequest:
    """Return the sample, decoded, with these fields of its request instead of its own."""
    return decode_review(orjson.dumps(make_review(**request)))
