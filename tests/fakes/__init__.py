"""Strict servers that speak the real protocols and inject faults on request, one home for each."""
