"""A small synchronous client for tests: JSON in and out, every resource the API server serves, nothing typed."""

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import httpx2

Json: TypeAlias = dict[str, Any]
Objects: TypeAlias = list[Json]
Patch: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]]

_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class ApiError(Exception):
    """The API server said no. `status` is the HTTP code, `reason` and `message` are those of its Status."""

    def __init__(self, response: httpx2.Response) -> None:
        try:
            body = response.json()
        except ValueError:
            body = {"message": response.text}
        self.status: int = response.status_code
        self.reason: str = body.get("reason", "")
        self.message: str = body.get("message", "")
        self.body: Json = body
        request = response.request
        super().__init__(f"{request.method} {request.url.path}: {self.status} {self.reason}: {self.message}")


@dataclass(frozen=True, slots=True)
class _Resource:
    prefix: str  # /api/v1 or /apis/GROUP/VERSION
    plural: str
    kind: str
    namespaced: bool

    def path(self, namespace: str | None, name: str | None, subresource: str | None) -> str:
        where = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return "/".join([f"{self.prefix}{where}/{self.plural}", *(part for part in (name, subresource) if part)])


class Client:
    """Requests to one API server with one token; may be shared by threads.

    A resource is named by its plural ("pods", "virtualmachines"), by "GROUP/plural" where two groups have the same
    plural, and is found by discovery. Every method raises ApiError when the answer is not a success.
    """

    def __init__(self, url: str, ca_file: Path, token: str, *, timeout: float = 30.0) -> None:
        self._url, self._ca_file, self._timeout = url, ca_file, timeout
        self._http = httpx2.Client(
            base_url=url,
            verify=ssl.create_default_context(cafile=str(ca_file)),
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout,
            limits=httpx2.Limits(max_connections=64, max_keepalive_connections=64),
            trust_env=False,  # no proxy on the way to loopback
        )
        self._resources: tuple[_Resource, ...] = ()
        self._last = threading.local()

    def with_token(self, token: str) -> "Client":
        """A client of the same API server that is somebody else; the caller closes it."""
        return Client(self._url, self._ca_file, token, timeout=self._timeout)

    def close(self) -> None:
        """Close the kept connections."""
        self._http.close()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The Warning headers (admission warnings among them) of this thread's last request, without code and agent."""
        return getattr(self._last, "warnings", ())

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Send one request to a path; raise ApiError unless the answer is 2xx."""
        response = self._http.request(method, path, json=body, params=params, headers=headers)
        self._last.warnings = tuple(map(_warning_text, response.headers.get_list("warning")))
        if not response.is_success:
            raise ApiError(response)
        return response

    def get(self, resource: str, name: str, namespace: str | None = None, *, subresource: str | None = None) -> Json:
        """One object."""
        return self._json("GET", self._find(resource).path(namespace, name, subresource))

    def find(self, resource: str, name: str, namespace: str | None = None) -> Json | None:
        """One object, or None where there is none."""
        try:
            return self.get(resource, name, namespace)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(
        self, resource: str, namespace: str | None = None, *, labels: str | None = None, fields: str | None = None
    ) -> Objects:
        """The objects of one namespace, or of all; `labels` and `fields` are selectors."""
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        params = {name: value for name, value in selectors.items() if value}
        served = self._find(resource)
        answer = self._json("GET", served.path(namespace, None, None), params=params)
        # The items of built-in kinds come without the two fields that every single object has.
        return [{"apiVersion": answer["apiVersion"], "kind": served.kind, **item} for item in answer["items"]]

    def create(self, obj: Json, *, dry_run: bool = False) -> Json:
        """POST an object to the place that its apiVersion, kind and namespace name."""
        resource, metadata = self._of(obj), obj["metadata"]
        params = {"dryRun": "All"} if dry_run else None
        return self._json("POST", resource.path(metadata.get("namespace"), None, None), obj, params=params)

    def post(self, resource: str, name: str, namespace: str | None, subresource: str, body: Json) -> Json:
        """POST to a subresource such as pods/binding or serviceaccounts/token."""
        return self._json("POST", self._find(resource).path(namespace, name, subresource), body)

    def replace(self, obj: Json, *, subresource: str | None = None) -> Json:
        """PUT an object; with its resourceVersion in it this fails when somebody else wrote since (409)."""
        resource, metadata = self._of(obj), obj["metadata"]
        return self._json("PUT", resource.path(metadata.get("namespace"), metadata["name"], subresource), obj)

    def apply(self, obj: Json, *, manager: str = "tests") -> Json:
        """Server-side apply, taking over fields from other managers."""
        resource, metadata = self._of(obj), obj["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"], None)
        params = {"fieldManager": manager, "force": "true"}
        return self._json("PATCH", path, obj, params=params, content_type="application/apply-patch+yaml")

    def patch(
        self,
        resource: str,
        name: str,
        patch: Patch,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
        kind: Literal["merge", "json", "strategic-merge"] | None = None,
        dry_run: bool = False,
    ) -> Json:
        """Patch an object; without `kind` a mapping is a merge patch and a list a JSON patch."""
        chosen = kind or ("merge" if isinstance(patch, Mapping) else "json")
        return self._json(
            "PATCH",
            self._find(resource).path(namespace, name, subresource),
            patch,
            params={"dryRun": "All"} if dry_run else None,
            content_type=f"application/{chosen}-patch+json",
        )

    def delete(
        self, resource: str, name: str, namespace: str | None = None, *, grace_seconds: int | None = None
    ) -> None:
        """Delete an object. A pod on a node needs `grace_seconds=0`: no kubelet is there to end it."""
        params = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        self.request("DELETE", self._find(resource).path(namespace, name, None), params=params)

    def _json(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        content_type: str | None = None,
    ) -> Json:
        headers = {"Content-Type": content_type} if content_type else None
        answer: Json = self.request(method, path, body, params=params, headers=headers).json()
        return answer

    def _find(self, resource: str) -> _Resource:
        group, _, plural = resource.rpartition("/")

        def fits(served: _Resource) -> bool:
            return served.plural == plural and (not group or served.prefix.startswith(f"/apis/{group}/"))

        return self._lookup(fits, resource)

    def _of(self, obj: Json) -> _Resource:
        api_version, kind = obj["apiVersion"], obj["kind"]
        prefix = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        return self._lookup(lambda served: served.prefix == prefix and served.kind == kind, f"{api_version} {kind}")

    def _lookup(self, fits: Callable[[_Resource], bool], asked: str) -> _Resource:
        if not any(map(fits, self._resources)):
            self._resources = tuple(_discover(self))  # CRDs come and go
        found = next(filter(fits, self._resources), None)
        if found is None:
            raise LookupError(f"the API server serves no {asked}")
        return found


def _discover(client: Client) -> Iterator[_Resource]:
    for root in ("/api", "/apis"):
        groups = client.request("GET", root, headers={"Accept": _DISCOVERY}).json()["items"]
        for group in groups:
            name = group["metadata"].get("name", "")
            for version in group["versions"]:
                prefix = f"{root}/{name}/{version['version']}".replace("//", "/")
                for item in version["resources"]:
                    if "responseKind" in item:
                        yield _discovered(prefix, item)


def _discovered(prefix: str, item: Json) -> _Resource:
    return _Resource(prefix, item["resource"], item["responseKind"]["kind"], item["scope"] == "Namespaced")


def _warning_text(header: str) -> str:
    text = header.split('"', 1)[-1].rsplit('"', 1)[0]  # 299 - "text", RFC 7234 section 5.5
    return text.replace('\\"', '"').replace("\\\\", "\\")
