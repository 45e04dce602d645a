"""Benchmarks: what the toolkit costs beside what pipelines do themselves."""
