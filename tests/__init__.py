"""Tests of meshdp, one folder a lane."""
