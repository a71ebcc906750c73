"""`python -m tests.bench`: how fast the webhook is, next to rivals that do the same work, in one run on one machine.

Absolute figures depend on the machine and on what else it does; ratios within one run are what counts. Contenders are
measured in turn, round by round, so that noise that comes and goes hits all of them, and medians over the rounds are
compared. Everything shares the machine's cores, the load generator included, as a webhook shares its node.

Three parts, `--only speed|scale|kubevirt`: one review against the rivals; a cluster of 10,000 machines and a change
of the policy that reaches every pod (scale/); what virt-controller makes of such a change.
"""
