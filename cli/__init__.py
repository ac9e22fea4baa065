"""The `sluice` command: starts the laptop stack, shows what it does, plays the demo.

It talks to Kafka, Postgres and the public API like any other client and imports no service.
"""
