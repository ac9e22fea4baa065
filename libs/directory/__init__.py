"""The local copy of every tenant's public record, kept by each service in its own schema."""
