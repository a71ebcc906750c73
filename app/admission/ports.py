"""What the admission path asks of the outside; `app.kube` and `app.controllers` provide it."""

from typing import Protocol

from app.core.objects import Facts, NamespaceView, OwnerReference
from app.core.policy import PolicyState


class LookupFailed(Exception):  # noqa: N818 - it reads as what happened, and a failed lookup is no fault of ours
    """The cluster's objects could not be read in time; the message is one line for the person who creates the VM."""


class FactsSource(Protocol):
    """Gives the facts about a launcher pod's owner."""

    async def facts(self, namespace: str, vmi: OwnerReference) -> Facts:
        """Return what the cluster knows of `vmi`; without I/O when everything is in the stores.

        Raises LookupFailed where the truth can't be had within the admission deadline.
        """
        ...


class NamespaceSource(Protocol):
    """Gives single Namespaces."""

    async def namespace(self, name: str) -> NamespaceView:
        """Return the Namespace; without I/O when it is in the store.

        Raises LookupFailed where it does not exist, or can't be had within the admission deadline.
        """
        ...


class PolicySource(Protocol):
    """Gives the policy in force."""

    def current(self) -> PolicyState:
        """Return the policy in force, without I/O."""
        ...
