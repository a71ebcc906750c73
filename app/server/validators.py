"""The validating webhooks of a process, by the last part of their path."""

from app.admission.ports import NamespaceSource, PolicySource
from app.admission.validate_annotations import AnnotationValidator
from app.admission.validate_policy import PolicyValidator
from app.admission.validator import Validator
from app.settings import Settings


def validators(policies: PolicySource, namespaces: NamespaceSource, settings: Settings) -> dict[str, Validator]:
    """Return the webhooks by the last part of their path."""
    config_map = (settings.namespace, settings.policy_config_map)
    return {
        "policy": PolicyValidator(policies, *config_map, grace=settings.policy_grace, deadline=settings.deadline / 2),
        "annotations": AnnotationValidator(policies, namespaces, settings.names),
    }
