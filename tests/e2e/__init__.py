"""Backups with real parts: Velero, its S3 plugin, KubeVirt's virt-freezer and virt-probe, and guests under QEMU.

Run by `make e2e` as root. What stands in for a part that cannot be here is named so: the kubelet (node.py), the storage
array (snapshotter.py), the object store (s3.py) and virt-launcher (the bridge in tests/controlplane/parts/bridge).
"""
