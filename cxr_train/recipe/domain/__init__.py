"""Objectives that treat the sources of a batch (hospitals, data sets) as domains: domain generalisation."""
