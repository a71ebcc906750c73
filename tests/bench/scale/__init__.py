"""How the product bears a large cluster: 10,000 Namespaces, VirtualMachines, instances and launcher pods.

The objects are copies of recorded ones, so they are as big as KubeVirt makes them. Convergence is compared with a bare
client that sends the same PATCHes to the same API server: what that reaches is what the API server bears here.
"""
