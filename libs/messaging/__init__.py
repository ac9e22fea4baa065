"""Exactly-once effects over Kafka and Postgres: fence, inbox, outbox, relay, parking, dead letters.

One Postgres transaction per delivered batch holds the fence, the inbox rows, the changes and the
outbox rows. Kafka's offset is committed after it: Postgres holds the truth, Kafka a hint.
"""
