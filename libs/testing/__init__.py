"""What tests stand on: a migrated database per test, and a log in memory in place of Kafka."""
