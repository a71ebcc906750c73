from hypothesis import settings

# A busy machine is no fault of the code; where time matters, a test measures it itself.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
