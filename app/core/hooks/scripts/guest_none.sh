# No steps in the guest.
quiesce() { :; }
abandon() { :; }
resume() { :; }
