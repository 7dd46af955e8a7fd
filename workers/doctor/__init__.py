"""`fleet doctor`: what is wrong here, and what to do about it.

It looks first, at everything at once and each time for a few seconds at most; what was seen is then judged
by functions without I/O, one module for each part of a fleet.
"""
