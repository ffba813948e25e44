"""Measures Millstream beside the physical limit and beside what a user would pick instead."""
