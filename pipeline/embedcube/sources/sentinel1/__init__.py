"""Sentinel-1: ground range detected products, calibrated or as processed by others."""
