"""The steps of the built-in profiles, run by the real keeper beside real database servers of Debian's packages.

Run by `make e2e`, as root; a package that is missing is a failure that names the command to install it.
"""
