"""HTTP for every service: errors, paging, limits, authentication, start and stop."""
