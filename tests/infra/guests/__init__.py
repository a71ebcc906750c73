"""Real guests under QEMU, with Velero, its S3 plugin and KubeVirt's virt-freezer and virt-probe.

What stands in for a part that cannot run here is named so: the kubelet (node.py), the storage array (snapshotter.py),
the object store (s3.py) and virt-launcher (the bridge in tests/infra/controlplane/parts/bridge).
"""
