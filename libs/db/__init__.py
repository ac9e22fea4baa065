"""Postgres: pools, tenant scope, migrations. One schema and one login role per service."""
