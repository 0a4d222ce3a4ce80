"""Measurements that legato makes of itself, side by side with the alternatives: `legato bench`."""
