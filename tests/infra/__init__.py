"""What tests are run with: the real control plane, real guests, the installed product, and stand-ins.

Nothing here is a test. A stand-in takes the place of a part that cannot run here or cannot be told to fail.
"""
