"""Chains of trainings: several recipes, each fed with what others made, run as one command."""
