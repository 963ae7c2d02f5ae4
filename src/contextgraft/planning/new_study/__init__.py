"""A study and its sheet, written for given models from their configs."""
