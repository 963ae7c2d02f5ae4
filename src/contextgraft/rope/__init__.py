"""Rotary position settings: schedules, and reading and writing them in any config form."""
