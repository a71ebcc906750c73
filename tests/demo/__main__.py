"""`python -m tests.demo [-v]`: the webhook answers recorded AdmissionReviews, without a cluster."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from app.core.annotations import PRE
from tests.demo.scenes import CHANGED, CREATED, NEXT_POLICY, POLICY, RESYNC, RESYNCED
from tests.demo.table import HOOK_KEYS_EXPLAINED, Row, Table
from tests.demo.webhook import Object, Webhook, WebhookError, patched, running

_HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; exit code 0, or 1 with the webhook's log where it failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description="The webhook answers recorded reviews.")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the hook annotations of every pod")
    table = Table(verbose=parser.parse_args(arguments).verbose)
    try:
        with running(POLICY, _HERE / "objects") as webhook:
            _show(webhook, table)
    except WebhookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the webhook has been stopped", file=sys.stderr)
        return 130
    table.paragraph(
        "The AdmissionReviews are recorded ones (tests/demo/reviews); no KubeVirt ran here. The same VMs on a real "
        "kube-apiserver and KubeVirt's virt-controller, which the first run compiles in some minutes:"
    )
    table.say("  make demo-cluster", bold=True)
    return 0


def _show(webhook: Webhook, table: Table) -> None:
    table.say(
        f"The webhook answers over HTTPS on 127.0.0.1:{webhook.port}, with the policy tests/demo/policy.yaml and the "
        "VMs and Namespaces of tests/demo/objects. It gets AdmissionReviews that were recorded on a real control plane."
    )
    table.say(HOOK_KEYS_EXPLAINED)
    for title, vms in CREATED:
        rows = [_answered(webhook, "create", vm) for vm in vms]
        table.section(title, rows)
    table.say(f"pre command of {rows[-1].vm}: {rows[-1].after[PRE + 'command']}", indent="  ")
    table.section(RESYNC, [_answered(webhook, "update", vm) for vm in RESYNCED])
    webhook.change_policy(NEXT_POLICY)
    table.section(
        "CREATE: the same reviews, after the policy file was replaced by one with default crash and without rules",
        [_answered(webhook, "create", vm) for vm in CHANGED],
    )


def _answered(webhook: Webhook, operation: str, vm: str) -> Row:
    """Send a recorded review."""
    review: Object = json.loads((_HERE / "reviews" / f"{operation}-{vm.replace('/', '-')}.json").read_text())
    pod, response = review["request"]["object"], webhook.send(review)
    after = patched(pod, response)["metadata"]["annotations"]
    return Row(vm, pod["metadata"]["annotations"], after, response.get("warnings", []))


if __name__ == "__main__":
    sys.exit(main())
