"""Recipes of synthetic long prompts: pure text and token functions shared by training and evaluation."""
