"""Velero's kinds, from its Go module, for tests that do without its server."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from tests.infra.controlplane.client import ApiError, Client, Json
from tests.infra.controlplane.toolchain import find_toolchain
from tests.infra.controlplane.waiting import wait_for

_MODULE = Path(__file__).parent / "parts" / "velero"
_VELERO = "github.com/vmware-tanzu/velero"


def velero_crds() -> list[Json]:
    """The CustomResourceDefinitions of the version of Velero that tests use; its module is downloaded if missing."""
    toolchain = find_toolchain()
    command = [str(toolchain.go), "mod", "download", "-json", _VELERO]
    ran = subprocess.run(command, cwd=_MODULE, env=toolchain.environment(), capture_output=True, text=True, check=True)
    folder = Path(json.loads(ran.stdout)["Dir"]) / "config" / "crd" / "v1" / "bases"
    return [yaml.safe_load(file.read_text()) for file in sorted(folder.glob("*.yaml"))]


def install_velero_crds(client: Client) -> None:
    """Create those that are missing, and wait until all are served."""
    wanted = velero_crds()
    missing = [crd for crd in wanted if not client.find("customresourcedefinitions", crd["metadata"]["name"])]
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(client.create, missing))
    for crd in wanted:
        plural: str = crd["metadata"]["name"].partition(".")[0]
        wait_for(lambda plural=plural: _is_served(client, plural), what=f"{plural} to be served")  # type: ignore[misc]


def _is_served(client: Client, plural: str) -> bool:
    try:
        client.list(plural)
    except (LookupError, ApiError):  # discovery lags behind the condition Established
        return False
    return True
