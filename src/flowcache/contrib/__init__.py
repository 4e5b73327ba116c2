"""Integrations. Each imports its framework, and is imported only by name."""
