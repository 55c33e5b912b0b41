"""Faults on purpose: killed processes, full disks, damaged files, malformed inputs. A command, no part of the tests.

python -m tests.faults [kills] [concurrent] [disk] [damage] [inputs] [--kills 32] [--seed 0]
"""
