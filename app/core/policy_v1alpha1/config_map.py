"""The policy as its ConfigMap has it, before anybody knows whether it is good."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from app.core.policy_v1alpha1.load import Finding, LoadedPolicy, PolicyError, load_policy

KEY: Final = "policy.yaml"
Parsed = LoadedPolicy | list[Finding]
"""A good policy, or everything that is wrong with it."""

_MISSING = f"the ConfigMap has no key {KEY}"
_BINARY = f"{KEY} is binary (it is in binaryData); save it as UTF-8 text"


def parse(text: str | None, missing: str = _MISSING) -> Parsed:
    """Read a policy; `missing` is what is wrong where there is no text. Takes half a second for the largest one."""
    if text is None:
        return [Finding("", 0, missing)]
    try:
        return load_policy(text)
    except PolicyError as error:
        return error.findings


@dataclass(frozen=True, slots=True)
class PolicyText:
    """What stands under KEY; `text` is None where nothing does, or nothing that is text."""

    text: str | None
    is_binary: bool = False

    @classmethod
    def of(cls, config_map: Mapping[str, Any]) -> Self:
        """Read a raw ConfigMap; raises ValueError, with the field's path, for what the API server would never send."""
        text = _map(config_map, "data").get(KEY)
        if text is not None and not isinstance(text, str):
            raise ValueError(f"data[{KEY}] must be a string")
        return cls(text, KEY in _map(config_map, "binaryData"))

    def parse(self) -> Parsed:
        """Read the policy; takes half a second for the largest one."""
        return parse(None, _BINARY) if self.is_binary else parse(self.text)


def _map(config_map: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = config_map.get(field) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{field} must be an object")
    return value
