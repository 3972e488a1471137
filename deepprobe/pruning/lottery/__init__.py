"""Lottery-ticket experiments: settings, what trainings begin from, branches, tasks for a sweep, tickets in files."""
