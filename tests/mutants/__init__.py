"""Mutation test of the library's numbers: faults are put into a copy, and the tests must fail.

`make mutants` runs it; CONTRIBUTING.md says how to read what it prints.
"""
