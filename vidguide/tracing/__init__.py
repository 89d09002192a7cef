"""Which step a sampling run is at, and the record of what guidances did in it.

What is recorded is plain data; how it is measured belongs to the guidances.
"""
