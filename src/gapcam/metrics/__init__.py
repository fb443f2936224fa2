"""Localization scores, each with its source. Pure: arrays in, numbers out."""
