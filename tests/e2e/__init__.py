"""Backups by Velero of real guests; run by `make e2e` as root. The parts are in tests/infra/guests."""
