"""`python -m tests.bench`: how fast the webhook is, next to rivals that do the same work, in one run on one machine.

Absolute figures depend on the machine and on what else it does; ratios within one run are what counts. Contenders are
measured in turn, round by round, so that noise that comes and goes hits all of them, and medians over the rounds are
compared. Everything shares the machine's cores, the load generator included, as a webhook shares its node.
"""
