"""Logs, traces, metrics and health of one process. Nothing here knows HTTP or Kafka."""
