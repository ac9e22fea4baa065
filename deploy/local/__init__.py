"""The laptop stack: real Kafka, real Postgres, Caddy and every service, with nothing but Python.

`stack.py` is the whole; `environment.py` chooses ports and secrets, `plan.py` says which programs
run, `supervisor.py` is the process that keeps them running. `scratch.py` gives tests a Postgres or a
Kafka of their own. Everything stands in one folder, `.local` by default (`folders.py`).
"""
