"""Tests of the tenants service."""
