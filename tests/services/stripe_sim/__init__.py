"""Tests of the sandbox, driven with the official SDK."""
