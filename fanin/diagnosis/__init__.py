"""Diagnosis of networks that do not train, by measurement on the user's model and batch."""
