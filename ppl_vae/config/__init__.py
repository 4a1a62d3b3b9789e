"""Configurations: names of classes and their settings, read off signatures."""
