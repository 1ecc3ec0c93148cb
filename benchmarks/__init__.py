"""Figures of speed and memory; they are printed, and nothing is asserted."""
