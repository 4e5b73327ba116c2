"""Integrations. Each needs what it integrates with, and nothing else of them is imported."""
