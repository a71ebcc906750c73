"""Reviews that start from the sample in the repository."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import orjson
from hypothesis import strategies as st

from app.admission.review import AdmissionRequest, decode_review
from app.core.annotations import LEVEL, MANAGED
from app.core.policy import PolicyState
from app.core.policy_v1alpha1.config_map import KEY

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


class StandInPolicy:
    """A PolicySource with one policy."""

    def __init__(self, state: PolicyState) -> None:
        self._state = state

    def current(self) -> PolicyState:
        return self._state


LIKE_OBJECTS = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "x", "true", "filesystem"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "spec", "template", "annotations", "labels", "name", "data", KEY, LEVEL, MANAGED]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
"""JSON that comes close to what validators look into."""
