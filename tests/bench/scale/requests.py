"""What kube-apiserver was asked, by its own count."""

import re
from collections import Counter

from tests.infra.controlplane import ControlPlane

_SAMPLE = re.compile(r"^apiserver_request_total\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

# The server's own (its identity's Lease, its Services, priority and fairness), and the bench's. A watch counts only
# when it ends, and the server itself has many.
_NOT_THE_PRODUCTS = re.compile(
    r"WATCH .*|PUT leases|APPLY .*|\S+ (services|endpoints|endpointslices|flowschemas|priority).*"
)


def answered(control_plane: ControlPlane) -> Counter[str]:
    """How many requests were answered so far, by verb, resource and, where it was an error, code; no dry runs."""
    found: Counter[str] = Counter()
    for sample, value in _SAMPLE.findall(control_plane.client.request("GET", "/metrics").text):
        labels = dict(_LABEL.findall(sample))
        if labels["resource"] and not labels["dry_run"]:
            code = "" if labels["code"].startswith("2") else f" {labels['code']}"
            resource = "/".join(filter(None, (labels["resource"], labels["subresource"])))
            found[f"{labels['verb']} {resource}{code}"] += int(float(value))
    return found


def since(control_plane: ControlPlane, before: Counter[str]) -> dict[str, int]:
    """What was answered since `before` to the product, or to the bare client."""
    return {
        what: count for what, count in (answered(control_plane) - before).items() if not _NOT_THE_PRODUCTS.match(what)
    }
