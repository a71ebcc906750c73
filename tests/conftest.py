"""Fixtures for all tests."""

from tests.infra.controlplane.fixtures import client, control_plane

__all__ = ["client", "control_plane"]
